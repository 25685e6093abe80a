// Ensures one demo per folder, because two would change the same simulated disks. The lock is a
// file lock (fcntl), which the kernel releases when its holder ends; SQLite takes it, because Node
// has no call for it. A note beside it names the holder for error messages; it is never used to
// decide who holds the lock.
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";

const holderNote = z.object({ pid: z.number(), listen: z.string().optional() });

type HolderNote = z.infer<typeof holderNote>;

/** How long to wait for the lock: a demo whose launcher was just killed is still stopping. */
const WAIT_MS = 2_000;
const POLL_MS = 50;

/**
 * Locks the folder. Throws with the holder's pid and address if it is still locked after WAIT_MS.
 */
export async function claimFolder(
  stateDir: string,
  options: { readonly signal: AbortSignal },
): Promise<FolderClaim> {
  const deadline = performance.now() + WAIT_MS;
  for (;;) {
    const lock = tryLock(join(stateDir, "demo.lock"));
    if (lock !== undefined) return new FolderClaim(stateDir, lock);
    if (performance.now() > deadline) {
      throw new Error(`another demo is running on ${stateDir}${holderOf(stateDir)}`);
    }
    await sleep(POLL_MS, undefined, options);
  }
}

class FolderClaim implements Disposable {
  readonly #stateDir: string;
  readonly #lock: DatabaseSync;

  constructor(stateDir: string, lock: DatabaseSync) {
    this.#stateDir = stateDir;
    this.#lock = lock;
    this.writeNote({});
  }

  /** Records pid and address of this demo for the error message of a second start. */
  writeNote(facts: Omit<HolderNote, "pid">): void {
    const note: HolderNote = { pid: process.pid, ...facts };
    writeFileSync(notePath(this.#stateDir), JSON.stringify(note));
  }

  [Symbol.dispose](): void {
    rmSync(notePath(this.#stateDir), { force: true });
    this.#lock.close();
  }
}

/** Undefined if another process holds the lock. */
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

function holderOf(stateDir: string): string {
  try {
    const { pid, listen } = holderNote.parse(JSON.parse(readFileSync(notePath(stateDir), "utf8")));
    const where = listen === undefined ? "" : `, listening on ${listen}`;
    return `: process ${pid}${where}; stop it, or use another folder with --state DIR`;
  } catch {
    // The holder has not written its note yet, or only a part of it.
    return "";
  }
}

function notePath(stateDir: string): string {
  return join(stateDir, "demo.json");
}
