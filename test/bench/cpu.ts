// CPU time of a process: unlike elapsed time, it does not depend on the load of the machine.
import { readdirSync, readFileSync } from "node:fs";

/** User and system time of all threads of the process, in ms; NaN if the process has ended. */
export function cpuMs(pid: number | undefined): number {
  if (pid === undefined) return Number.NaN;
  try {
    // schedstat has nanoseconds (first number); /proc/PID/stat only has ticks of ten milliseconds.
    return readdirSync(`/proc/${pid}/task`).reduce((sum, thread) => sum + threadMs(pid, thread), 0);
  } catch {
    return Number.NaN;
  }
}

function threadMs(pid: number, thread: string): number {
  const [nanoseconds] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "utf8").split(" ");
  return Number(nanoseconds) / 1e6;
}
