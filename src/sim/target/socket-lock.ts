// One target per socket path: a lock file next to the socket holds the process id. At start the
// socket file of an exited target is replaced, that of a running one is not
// (docs/spdk-contract.md#transport-and-framing).
import { lstatSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { removeStaleSocket } from "./stale-socket.ts";

/** Locks the path, or returns the holder of the lock. Throws if another file is in the place of either. */
export async function lockSocket(path: string): Promise<Disposable | { readonly heldBy: string }> {
  const lock = `${path}.lock`;
  if (await answers(path)) return { heldBy: holder(lock) };
  refuseOtherFile(lock);
  removeStaleSocket(path);
  writeFileSync(lock, `${process.pid}\n`);
  return {
    [Symbol.dispose]: () => {
      removeStaleSocket(path);
      rmSync(lock, { force: true });
    },
  };
}

/** A lock has the id of a process, or nothing if that one died before it wrote it. */
function refuseOtherFile(lock: string): void {
  const found = lstatSync(lock, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (found.isFile() && /^\d*\n?$/.test(readFileSync(lock, "utf8"))) return;
  throw new Error(`${lock} is not the lock of a target: it is left as it is`);
}

function holder(lock: string): string {
  try {
    return `process ${readFileSync(lock, "utf8").trim()}`;
  } catch {
    return "another process";
  }
}

/** Whether a process serves the socket: connecting to a stale socket file is refused. */
async function answers(path: string): Promise<boolean> {
  return await new Promise((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", () => resolve(false));
  });
}
