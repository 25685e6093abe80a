// Tells when the target's socket appears: a target that restarts makes it anew, and every export waits
// for whoever notices. Where folders cannot be watched nothing is told, and trying again has to do.
import { statSync, watch, type FSWatcher } from "node:fs";
import { basename, dirname } from "node:path";

export class SocketWatch implements Disposable {
  readonly #path: string;
  readonly #appeared: () => void;
  #watcher: FSWatcher | undefined;
  /** Of the folder that is watched: a service manager makes it anew with each start. */
  #inode: bigint | undefined;

  constructor(path: string, appeared: () => void) {
    this.#path = path;
    this.#appeared = appeared;
    this.renew();
  }

  /** Watches the folder that is there now, if it is another one than before. */
  renew(): void {
    const [folder, name] = [dirname(this.#path), basename(this.#path)];
    try {
      const { ino } = statSync(folder, { bigint: true });
      if (ino === this.#inode) return;
      this.#watcher?.close();
      this.#inode = ino;
      this.#watcher = watch(folder, { persistent: false }, (_event, changed) => {
        if (changed === name) this.#appeared();
      });
      this.#watcher.on("error", () => this[Symbol.dispose]());
    } catch {
      this[Symbol.dispose]();
    }
  }

  [Symbol.dispose](): void {
    this.#watcher?.close();
    this.#watcher = undefined;
    this.#inode = undefined;
  }
}
