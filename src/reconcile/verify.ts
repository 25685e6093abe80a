// verify: readiness after start. It decides from the observed state when every object was observed
// once since the target was identified. A disk whose lvstore takes minutes to load delays its own
// volumes only, not the readiness of the node.
//
// It never runs the loops and never sends a request.
import type { Rows } from "../store/rows.ts";
import type { Observed } from "./target/observed.ts";

export type VerificationOptions = {
  readonly rows: Rows;
  readonly observed: Observed;
  /** Whether the disks were listed both in the kernel and on the target. */
  readonly disksListed: () => boolean;
  /** Whether a step on this disk was dispatched and is not answered yet. */
  readonly inFlight: (diskId: string) => boolean;
};

export class Verification {
  readonly #options: VerificationOptions;
  #done = false;

  constructor(options: VerificationOptions) {
    this.#options = options;
  }

  /** Whether every object was observed once. Stays true for the rest of the process. */
  get done(): boolean {
    this.#done ||= this.#isVerified();
    return this.#done;
  }

  /** How many disks, volumes and snapshots were observed since the start, of how many. */
  get progress(): { readonly observed: number; readonly all: number } {
    const { rows, observed } = this.#options;
    const disks = [...rows.disks()].filter(({ state }) => state === "UP");
    const lvols = [...rows.lvols()].filter(({ deleteTime }) => deleteTime === undefined);
    const snapshots = [...rows.snapshots.all()].filter(
      ({ deleteTime }) => deleteTime === undefined,
    );
    const seen = [
      ...disks.filter(({ id }) => observed.disk(id) !== undefined),
      ...lvols.filter(({ id }) => {
        const { lvol, subsystem } = observed.volume(id);
        return lvol !== undefined && subsystem !== undefined;
      }),
      ...snapshots.filter(({ id }) => observed.snapshot(id) !== undefined),
    ];
    return { observed: seen.length, all: disks.length + lvols.length + snapshots.length };
  }

  #isVerified(): boolean {
    const { rows, observed, disksListed, inFlight } = this.#options;
    if (
      rows.node === undefined ||
      rows.copied ||
      observed.incarnation === undefined ||
      !disksListed()
    )
      return false;
    // A disk is settled when it is on the target, or when its recorded state is not UP. One that is
    // neither delays readiness, unless a step on it is in flight.
    for (const row of rows.disks()) {
      const settled = observed.disk(row.id) !== undefined || row.state !== "UP";
      if (!settled && !inFlight(row.id)) return false;
    }
    for (const row of rows.lvols()) {
      if (row.deleteTime !== undefined || observed.disk(row.diskId)?.store === undefined) continue;
      const { lvol, subsystem } = observed.volume(row.id);
      if (lvol === undefined || subsystem === undefined) return false;
    }
    for (const row of rows.snapshots.all()) {
      if (row.deleteTime !== undefined || observed.disk(row.diskId)?.store === undefined) continue;
      if (observed.snapshot(row.id) === undefined) return false;
    }
    return true;
  }
}
