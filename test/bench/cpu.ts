// How much of a core a process has used: what a busy machine does to times it does not do to this.
import { readdirSync, readFileSync } from "node:fs";

/** User and system time of all threads of the process since their start; NaN if it is gone. */
export function cpuMs(pid: number | undefined): number {
  if (pid === undefined) return Number.NaN;
  try {
    // The first number is nanoseconds on a core; the ticks of /proc/PID/stat are ten milliseconds.
    return readdirSync(`/proc/${pid}/task`).reduce((sum, thread) => sum + threadMs(pid, thread), 0);
  } catch {
    return Number.NaN;
  }
}

function threadMs(pid: number, thread: string): number {
  const [nanoseconds] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "utf8").split(" ");
  return Number(nanoseconds) / 1e6;
}
