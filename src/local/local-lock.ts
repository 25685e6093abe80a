// The local lock: one agent per SPDK socket. It is an fcntl lock on a file beside the socket, held
// for as long as this process lives; the kernel releases it however the process dies. SQLite takes
// the lock, as Node has no API for it. It never writes into the file.
import { readFileSync, statSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";

const BOOT_ID = "/proc/sys/kernel/random/boot_id";

export class LocalLock implements Disposable {
  readonly #path: string;
  #file: DatabaseSync | undefined;
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
      if (identityOf(this.#path) === this.#identity) return true;
      this[Symbol.dispose]();
      this.#reason = `${this.#path} was removed or replaced`;
      return false;
    }
    let file: DatabaseSync | undefined;
    try {
      file = new DatabaseSync(this.#path);
      file.exec("pragma journal_mode = memory; pragma locking_mode = exclusive; begin exclusive");
      this.#file = file;
      this.#identity = identityOf(this.#path);
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

function identityOf(path: string): string {
  try {
    const { dev, ino } = statSync(path);
    return `${readFileSync(BOOT_ID, "utf8").trim()}:${dev}:${ino}`;
  } catch {
    return "";
  }
}
