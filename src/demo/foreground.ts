// Detects the end of the demo's foreground session: the terminal was closed (SIGHUP), the reader of
// its output is gone, or npm or the launcher (bin/storage-node.js) has ended. A launcher killed
// with -9 cannot pass a signal on, so its process is polled.
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { identityOf, isRunning, parentOf, type ProcessIdentity } from "./process-identity.ts";

const CHECK_MS = 250;
const LAUNCHERS = ["storage-node.js", "storage-node"];

export type Foreground = Disposable & {
  /** Aborts when the terminal, the reader of the output or the launcher is gone. */
  readonly signal: AbortSignal;
};

export function watchForeground(): Foreground {
  const ended = new AbortController();
  const end = () => ended.abort();
  process.on("SIGHUP", end);
  // These listeners are never removed: output during the stop may fail too.
  process.stdout.on("error", end);
  process.stderr.on("error", end);
  const launchers = findLaunchers();
  const timer = setInterval(() => {
    if (!launchers.every(isRunning)) end();
  }, CHECK_MS);
  return {
    signal: ended.signal,
    [Symbol.dispose]: () => {
      clearInterval(timer);
      process.off("SIGHUP", end);
    },
  };
}

/**
 * The launcher, and npm if that runs it. Any other parent may end before the demo without ending
 * it.
 */
function findLaunchers(): readonly ProcessIdentity[] {
  const launcher = identityOf(process.ppid);
  if (launcher === undefined || !isLauncher(launcher.pid)) return [];
  const npm = process.env["npm_lifecycle_event"] === undefined ? undefined : parentOf(launcher);
  return npm === undefined ? [launcher] : [launcher, npm];
}

function isLauncher(pid: number): boolean {
  try {
    const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
    return argv.some((word) => LAUNCHERS.includes(basename(word)));
  } catch {
    // The process has ended.
    return false;
  }
}
