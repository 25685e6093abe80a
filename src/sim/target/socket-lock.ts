// Only one target per socket path: a lock file beside it names the process. The socket file of a dead
// target is replaced at start, that of a living one is not (CONTRACT section 1).
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";

/** Takes the path, or says who has it. */
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

/** A living target accepts; the socket file of a dead one refuses. */
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
