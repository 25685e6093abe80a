// The local lock: one agent per SPDK socket. It is an fcntl lock on a file beside the socket, held
// for as long as this process lives; the kernel releases it however the process dies. SQLite takes
// the lock, as Node has no API for it. It never writes into the file.
import { readFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { prepareLockFile, sameFile, type LockFile } from "./lock-file.ts";

const BOOT_ID = "/proc/sys/kernel/random/boot_id";

export class LocalLock implements Disposable {
  readonly #path: string;
  #file: DatabaseSync | undefined;
  #held: LockFile | undefined;
  #identity = "";
  #reason = "not tried yet";

  /** @param socketPath the target's socket; the lock is the file `<socketPath>.agent` */
  constructor(socketPath: string) {
    this.#path = `${socketPath}.agent`;
  }

  /** Why the lock is not held; empty while it is. */
  get reason(): string {
    return this.#file === undefined ? this.#reason : "";
  }

  /**
   * Identity of the lock file (boot id, device, inode), the same for every process that held this
   * lock since the machine booted: the present holder knows that the earlier ones are dead.
   */
  get identity(): string {
    return this.#identity;
  }

  /**
   * Acquires the lock if it is free; returns whether it is held. A lock whose file was removed or
   * replaced is given up.
   */
  hold(): boolean {
    if (this.#file !== undefined) {
      if (this.#held !== undefined && sameFile(this.#path, this.#held)) return true;
      this[Symbol.dispose]();
      this.#reason = `${this.#path} was removed or replaced`;
      return false;
    }
    let file: DatabaseSync | undefined;
    try {
      const prepared = prepareLockFile(this.#path);
      file = new DatabaseSync(this.#path);
      file.exec("pragma journal_mode = memory; pragma locking_mode = exclusive; begin exclusive");
      if (!sameFile(this.#path, prepared)) throw new Error("it is being replaced");
      this.#file = file;
      this.#held = prepared;
      this.#identity = identityOf(prepared);
      return true;
    } catch (error) {
      file?.close();
      const message = error instanceof Error ? error.message : String(error);
      this.#reason = /locked/.test(message)
        ? `another agent holds ${this.#path}`
        : `${this.#path} cannot be locked: ${message}`;
      return false;
    }
  }

  [Symbol.dispose](): void {
    this.#file?.close();
    this.#file = undefined;
  }
}

function identityOf({ dev, ino }: LockFile): string {
  return `${readFileSync(BOOT_ID, "utf8").trim()}:${dev}:${ino}`;
}
