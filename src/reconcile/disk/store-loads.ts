// Waits for SPDK to finish loading the lvstores of attached disks. SPDK lists a controller while
// its lvstore is still being loaded, which takes minutes after a crash. A disk without its lvstore
// is a failure only once SPDK answers that it examines no bdev any more.
import type { Logger } from "pino";
import type { SpdkClient } from "../../spdk/client.ts";
import type { ObservedDisk } from "../target/observed-disk.ts";

export type StoreLoadsOptions = {
  readonly spdk: Pick<SpdkClient, "bdevWaitForExamine">;
  readonly log: Logger;
  /** Observes the lvstores that were loaded. */
  readonly rescan: () => Promise<void>;
  /** Called when the disks without an lvstore are known to have none: to plan them again. */
  readonly onEnded: () => void;
};

export class StoreLoads {
  readonly #options: StoreLoadsOptions;
  /** Observations of disks that still had no lvstore when SPDK had finished loading. */
  readonly #ended = new WeakSet<ObservedDisk>();
  #expected: readonly ObservedDisk[] = [];
  #waiting = false;

  constructor(options: StoreLoadsOptions) {
    this.#options = options;
  }

  /** Whether loading has ended for this very observation without an lvstore. */
  ended(disk: ObservedDisk | undefined): boolean {
    return disk !== undefined && this.#ended.has(disk);
  }

  /** Waits for the lvstores of these observed disks; replaces what an earlier call named. */
  expect(disks: readonly ObservedDisk[]): void {
    this.#expected = disks.filter((disk) => !this.ended(disk));
    if (this.#waiting || this.#expected.length === 0) return;
    this.#waiting = true;
    const { spdk, rescan, onEnded, log } = this.#options;
    // Disks that are attached while this wait is under way need one of their own.
    const waitedFor = this.#expected;
    spdk
      .bdevWaitForExamine()
      // A disk that got its lvstore becomes a new observation, which is not among those waited for.
      .then(() => rescan())
      .then(() => {
        for (const disk of waitedFor) this.#ended.add(disk);
        this.#waiting = false;
        onEnded();
        this.expect(this.#expected);
      })
      .catch((error: unknown) => {
        this.#waiting = false;
        log.warn({ err: error }, "cannot wait for SPDK to load lvstores");
      });
  }
}
