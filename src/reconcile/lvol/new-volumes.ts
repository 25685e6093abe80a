// Volumes whose rows this agent has committed under its present lease and for which it has sent no
// creation yet. Of these alone it knows that nobody can have made an lvol for them: an lvol that has the
// name of one is somebody else's (docs/architecture.md#r5-read-back).
//
// It never holds a volume whose row was read from the database: an earlier agent may have made its lvol
// and died before it recorded that.
import type { LvolRow } from "../../model/lvol.ts";

export class NewVolumes {
  /** Volume id to the epoch of the lease under which its row was committed. */
  readonly #epochs = new Map<string, bigint>();
  readonly #epoch: () => bigint | undefined;

  constructor(epoch: () => bigint | undefined) {
    this.#epoch = epoch;
  }

  /** After a commit. created: this process has inserted the row. */
  follow(
    id: string,
    { created, row }: { readonly created: boolean; readonly row: LvolRow | undefined },
  ): void {
    const epoch = this.#epoch();
    if (created && epoch !== undefined) this.#epochs.set(id, epoch);
    if (row?.lvolUuid !== undefined || row?.deleteTime !== undefined) this.#epochs.delete(id);
  }

  /** In another epoch an agent may have led in between, and made the lvol. */
  has(id: string): boolean {
    const epoch = this.#epochs.get(id);
    return epoch !== undefined && epoch === this.#epoch();
  }

  /** A creation was sent, and whatever has its name may come of it. */
  delete(id: string): void {
    this.#epochs.delete(id);
  }
}
