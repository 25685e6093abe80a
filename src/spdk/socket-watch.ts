// Watches for the creation of the target's socket: a restarted target creates it anew, and
// connecting at once shortens the outage of the exports. Where the folder cannot be watched, it
// reports nothing and the periodic reconnect attempts remain.
import { statSync, watch, type FSWatcher } from "node:fs";
import { basename, dirname } from "node:path";

export class SocketWatch implements Disposable {
  readonly #path: string;
  readonly #onCreated: () => void;
  #watcher: FSWatcher | undefined;
  /** Inode of the watched folder: a service manager creates the folder anew with each start. */
  #inode: bigint | undefined;

  /** onCreated: called for every change of the socket's folder entry, its removal included. */
  constructor(path: string, onCreated: () => void) {
    this.#path = path;
    this.#onCreated = onCreated;
    this.renew();
  }

  /** Watches the folder that exists now, if it is not the one watched already. */
  renew(): void {
    const [folder, name] = [dirname(this.#path), basename(this.#path)];
    try {
      const { ino } = statSync(folder, { bigint: true });
      if (ino === this.#inode) return;
      this.#watcher?.close();
      this.#inode = ino;
      this.#watcher = watch(folder, { persistent: false }, (_event, changed) => {
        if (changed === name) this.#onCreated();
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
