// verify: readiness after start. Not a second implementation: the loops run as always, and verify
// says when each object has been through them once with the target known. A disk that takes minutes
// to load holds up its own volumes only, not the node's readiness.
import type { Rows } from "../store/rows.ts";
import type { Observed } from "./target/observed.ts";

export type VerificationOptions = {
  readonly rows: Rows;
  readonly observed: Observed;
  /** Kernel and target were both asked for their disks. */
  readonly disksListed: () => boolean;
  /** A step on this disk is not answered yet. */
  readonly inFlight: (diskId: string) => boolean;
};

export class Verification {
  readonly #options: VerificationOptions;
  #done = false;

  constructor(options: VerificationOptions) {
    this.#options = options;
  }

  /** Once true, true for the rest of the process. */
  get done(): boolean {
    this.#done ||= this.#isVerified();
    return this.#done;
  }

  #isVerified(): boolean {
    const { rows, observed, disksListed, inFlight } = this.#options;
    if (rows.node === undefined || observed.incarnation === undefined || !disksListed())
      return false;
    // A disk with volumes is either loaded, or known not to be, or still being worked on: only the
    // last kind may be left out, and its volumes wait.
    for (const row of rows.disks()) {
      const settled = observed.disk(row.id) !== undefined || row.state !== "UP";
      if (!settled && !inFlight(row.id)) return false;
    }
    for (const row of rows.lvols()) {
      if (row.deleteTime !== undefined || observed.disk(row.diskId)?.store === undefined) continue;
      const { lvol, subsystem } = observed.volume(row.id);
      if (lvol === undefined || subsystem === undefined) return false;
    }
    return true;
  }
}
