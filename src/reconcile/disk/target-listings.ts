// The lists of the disks on the target: which of them counts, and what it can say. A disk that is not listed
// may still come while anything that was sent may be running.
import type { Config } from "../../config.ts";
import type { DiskRow } from "../../model/disk.ts";
import { isInGrace, type PendingContext } from "../../model/pending-op.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { Bdev } from "../../spdk/replies-bdev.ts";
import type { Rows } from "../../store/rows.ts";
import type { Lanes } from "../engine/lanes.ts";
import { disksOnTarget, type FoundDisks } from "../target/disks-on-target.ts";
import type { Observed } from "../target/observed.ts";

export type TargetListingsOptions = {
  readonly config: Pick<Config, "fabricDisks">;
  readonly spdk: SpdkClient;
  readonly rows: Rows;
  readonly observed: Observed;
  readonly lanes: Lanes;
  readonly pending: (now: Date) => PendingContext;
};

export class TargetListings {
  readonly #options: TargetListingsOptions;
  #listedIncarnation: string | undefined;
  #doubts = 0;
  #settledAfter: number | undefined;

  constructor(options: TargetListingsOptions) {
    this.#options = options;
  }

  /** They were listed in this incarnation. */
  get listed(): boolean {
    const { incarnation } = this.#options.observed;
    return incarnation !== undefined && incarnation === this.#listedIncarnation;
  }

  /**
   * They were listed when nothing could be running any more that an earlier agent had sent, or whose outcome was
   * not known: what is not listed does not come but by what this agent sends.
   */
  get settled(): boolean {
    return this.listed && this.#settledAfter === this.#doubts && !this.#inGrace;
  }

  /** They were not listed yet, or not since all that was sent has ended. */
  get due(): boolean {
    return !this.listed || (!this.settled && !this.#inGrace);
  }

  /** What was listed, or is being listed, need not be all that comes: the grace has begun, or an outcome is known. */
  doubt(): void {
    this.#doubts += 1;
  }

  /** The grace has ended. Whether that is enough to know: a disk that was there then does not come any more. */
  settledByGrace(): boolean {
    const { rows, observed } = this.#options;
    const isThere = ({ id }: DiskRow) => observed.disk(id) !== undefined;
    if (!this.listed || ![...rows.disks()].every(isThere)) return false;
    this.#settledAfter = this.#doubts;
    return true;
  }

  async read(bdevs?: Promise<readonly Bdev[]>): Promise<FoundDisks> {
    const { spdk, rows, config, lanes, observed } = this.#options;
    const after = this.#inGrace ? undefined : this.#doubts;
    const freeRead = observed.beginFreeRead();
    const changing = ({ id }: DiskRow) => lanes.busy({ kind: "disk", disk: id, mode: "shared" });
    const inTransition = new Set([...rows.disks()].filter(changing).map(({ id }) => id));
    const nsids = new Set([1, ...config.fabricDisks.map(({ nsid }) => nsid)]);
    for (const row of rows.disks()) nsids.add(row.nsid);
    const { disks: found, controllers } = await disksOnTarget(spdk, nsids, bdevs);
    return { found, controllers, inTransition, freeRead, after };
  }

  applied({ after }: FoundDisks): void {
    this.#listedIncarnation = this.#options.observed.incarnation;
    if (after !== undefined) this.#settledAfter = after;
  }

  get #inGrace(): boolean {
    return isInGrace(this.#options.pending(new Date()));
  }
}
