// Whether the launcher (bin/storage-node.js) that runs this process in its foreground is still there.
// Killed with -9 it takes nobody along, and what it left would run on unseen.
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { identityOf, isRunning } from "./process-identity.ts";

const LOOK_MS = 250;
const LAUNCHERS = ["storage-node.js", "storage-node"];

export type LauncherWatch = Disposable & {
  /** Aborts when the launcher is gone; never, if this process was started without one. */
  readonly signal: AbortSignal;
};

export function watchLauncher(): LauncherWatch {
  const gone = new AbortController();
  const launcher = identityOf(process.ppid);
  if (launcher === undefined || !isLauncher(launcher.pid)) {
    return { signal: gone.signal, [Symbol.dispose]: () => undefined };
  }
  const timer = setInterval(() => {
    if (!isRunning(launcher)) gone.abort();
  }, LOOK_MS);
  return { signal: gone.signal, [Symbol.dispose]: () => clearInterval(timer) };
}

function isLauncher(pid: number): boolean {
  try {
    const argv = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
    return argv.some((word) => LAUNCHERS.includes(basename(word)));
  } catch {
    // It ended meanwhile.
    return false;
  }
}
