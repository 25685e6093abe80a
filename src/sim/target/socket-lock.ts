// One target per socket path: a lock file next to the socket holds the process id. At start the
// socket file of an exited target is replaced, that of a running one is not
// (docs/spdk-contract.md#transport-and-framing).
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";

/** Locks the path, or returns the holder of the lock. */
export async function lockSocket(path: string): Promise<Disposable | { readonly heldBy: string }> {
  const lock = `${path}.lock`;
  if (await answers(path)) return { heldBy: holder(lock) };
  rmSync(path, { force: true });
  writeFileSync(lock, `${process.pid}\n`);
  return {
    [Symbol.dispose]: () => {
      rmSync(path, { force: true });
      rmSync(lock, { force: true });
    },
  };
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
