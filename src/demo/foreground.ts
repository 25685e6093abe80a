// Whether anybody still sits before the demo: it runs in the foreground of a terminal, and must not
// run on unseen when that is closed, when the reader of its output is gone, or when npm or the
// launcher (bin/storage-node.js) was killed with -9, which takes nobody along.
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { identityOf, isRunning, parentOf, type ProcessIdentity } from "./process-identity.ts";

const CHECK_MS = 250;
const LAUNCHERS = ["storage-node.js", "storage-node"];

export type Foreground = Disposable & {
  /** Aborts when nobody is there any more. */
  readonly signal: AbortSignal;
};

export function watchForeground(): Foreground {
  const gone = new AbortController();
  const leave = () => gone.abort();
  process.on("SIGHUP", leave);
  // Never taken off again: what is said while stopping may fail, too.
  process.stdout.on("error", leave);
  process.stderr.on("error", leave);
  const starters = startersOf();
  const timer = setInterval(() => {
    if (!starters.every(isRunning)) leave();
  }, CHECK_MS);
  return {
    signal: gone.signal,
    [Symbol.dispose]: () => {
      clearInterval(timer);
      process.off("SIGHUP", leave);
    },
  };
}

/** The launcher, and npm where that runs it; whatever else started us may end before us. */
function startersOf(): readonly ProcessIdentity[] {
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
    // It ended meanwhile.
    return false;
  }
}
