// Whether the store of an attached disk may still be on its way. SPDK lists a controller while its store
// is being loaded, which takes minutes after a crash; only once nothing is being looked into any more
// does a store that is not there not come.
import type { Logger } from "pino";
import type { SpdkClient } from "../../spdk/client.ts";
import type { ObservedDisk } from "../target/observed.ts";

export type StoreLoadsOptions = {
  readonly spdk: Pick<SpdkClient, "bdevWaitForExamine">;
  readonly log: Logger;
  /** Sees what came up. */
  readonly rescan: () => Promise<void>;
  /** What did not come up does not: disks are planned again. */
  readonly onEnded: () => void;
};

export class StoreLoads {
  readonly #options: StoreLoadsOptions;
  /** As they were seen without a store when nothing was being loaded any more. */
  readonly #ended = new WeakSet<ObservedDisk>();
  #waiting = false;

  constructor(options: StoreLoadsOptions) {
    this.#options = options;
  }

  ended(disk: ObservedDisk | undefined): boolean {
    return disk !== undefined && this.#ended.has(disk);
  }

  /** Disks that are there without the store that they should have. */
  expect(disks: readonly ObservedDisk[]): void {
    if (this.#waiting || disks.every((disk) => this.ended(disk))) return;
    this.#waiting = true;
    const { spdk, rescan, onEnded, log } = this.#options;
    spdk
      .bdevWaitForExamine()
      // A disk that has its store by now is another observation than the one that was waited for.
      .then(() => rescan())
      .then(() => {
        for (const disk of disks) this.#ended.add(disk);
        onEnded();
      })
      .catch((error: unknown) => log.warn({ err: error }, "loads cannot be waited for"))
      .finally(() => {
        this.#waiting = false;
      });
  }
}
