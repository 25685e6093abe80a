// The first fence: one agent per SPDK socket. A file beside the socket, locked for as long as this
// process lives; the kernel lets go of it when the process dies, however it dies. SQLite does the
// locking (fcntl), as Node itself has no call for it; nothing is ever written into the file.
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

  /** Why it is not held; empty while it is. */
  get reason(): string {
    return this.#file === undefined ? this.#reason : "";
  }

  /**
   * The same for every process that held this lock since the machine started: whoever holds it now
   * knows that the others are dead.
   */
  get identity(): string {
    return this.#identity;
  }

  /** Takes the lock if nobody has it. True while it is held, and while its file is still that file. */
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
