// Tells when the target's socket appears: a target that restarts makes it anew, and every export waits
// for whoever notices. Where folders cannot be watched nothing is told, and trying again has to do.
import { watch, type FSWatcher } from "node:fs";
import { basename, dirname } from "node:path";

export class SocketWatch implements Disposable {
  readonly #watcher: FSWatcher | undefined;

  constructor(path: string, appeared: () => void) {
    const name = basename(path);
    try {
      this.#watcher = watch(dirname(path), { persistent: false }, (_event, changed) => {
        if (changed === name) appeared();
      });
      // The folder itself went away.
      this.#watcher.on("error", () => this.#watcher?.close());
    } catch {
      this.#watcher = undefined;
    }
  }

  [Symbol.dispose](): void {
    this.#watcher?.close();
  }
}
