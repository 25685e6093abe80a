// One demo per folder: two would fight over the same disks. A lock file that the kernel lets go of
// when its holder dies, however it dies; SQLite does the locking (fcntl), as Node itself has no call
// for it. Beside it a note for people, which decides nothing.
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";

const holderNote = z.object({ pid: z.number(), listen: z.string().optional() });

type HolderNote = z.infer<typeof holderNote>;

/** One whose launcher was killed a moment ago is still stopping. */
const WAIT_MS = 2_000;
const LOOK_MS = 50;

/** Takes the folder. Throws, saying who has it and where that one serves, if it stays taken. */
export async function claimFolder(
  stateDir: string,
  options: { readonly signal: AbortSignal },
): Promise<FolderClaim> {
  const deadline = performance.now() + WAIT_MS;
  for (;;) {
    const lock = tryLock(join(stateDir, "demo.lock"));
    if (lock !== undefined) return new FolderClaim(stateDir, lock);
    if (performance.now() > deadline) {
      throw new Error(`a demo runs on ${stateDir} already${whoHas(stateDir)}`);
    }
    await sleep(LOOK_MS, undefined, options);
  }
}

class FolderClaim implements Disposable {
  readonly #stateDir: string;
  readonly #lock: DatabaseSync;

  constructor(stateDir: string, lock: DatabaseSync) {
    this.#stateDir = stateDir;
    this.#lock = lock;
    this.tell({});
  }

  /** Leaves word for a second start. */
  tell(facts: Omit<HolderNote, "pid">): void {
    const note: HolderNote = { pid: process.pid, ...facts };
    writeFileSync(notePath(this.#stateDir), JSON.stringify(note));
  }

  [Symbol.dispose](): void {
    rmSync(notePath(this.#stateDir), { force: true });
    this.#lock.close();
  }
}

/** Undefined: somebody else has it. */
function tryLock(path: string): DatabaseSync | undefined {
  let lock: DatabaseSync | undefined;
  try {
    lock = new DatabaseSync(path);
    lock.exec("pragma journal_mode = memory; pragma locking_mode = exclusive; begin exclusive");
    return lock;
  } catch (cause) {
    lock?.close();
    if (cause instanceof Error && /locked/.test(cause.message)) return undefined;
    throw new Error(`${path} cannot be locked`, { cause });
  }
}

function whoHas(stateDir: string): string {
  try {
    const { pid, listen } = holderNote.parse(JSON.parse(readFileSync(notePath(stateDir), "utf8")));
    const where = listen === undefined ? "" : `, and serves ${listen}`;
    return `: process ${pid}${where}; stop it, or start another one with --state DIR`;
  } catch {
    // It has the lock and has not written the note yet.
    return "";
  }
}

function notePath(stateDir: string): string {
  return join(stateDir, "demo.json");
}
