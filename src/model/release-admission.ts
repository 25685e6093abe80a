// Admission of ReleaseDisk: the disk leaves this node, with what is on it. Pure, as admission.ts.
//
// Nothing on the disk is changed: it may be admitted again, here with its volumes (AdmitDisk), or be adopted
// by another node (AdoptDisk).
import { namedDisk } from "./disk-refusals.ts";
import type { DiskRow } from "./disk.ts";
import { Refusal } from "./errors.ts";
import { newIntent, type Intent } from "./intent.ts";
import { refuseWiping } from "./wipe.ts";

export type ReleaseDisk = {
  readonly kind: "releaseDisk";
  readonly serial: string;
  /** Also with volumes on it, and under hosts that use them. */
  readonly force: boolean;
  /** Why; required with force, else it may be empty. */
  readonly reason: string;
  /** What is on the disk without being in its row, for people: found on the target; undefined: nothing. */
  readonly others: string | undefined;
};

export type ReleaseState = {
  readonly now: Date;
  readonly revision: bigint;
  readonly disks: Map<string, DiskRow>;
};

export function releaseDisk(state: ReleaseState, mutation: Intent & ReleaseDisk): DiskRow {
  const { id, force } = mutation;
  const disk = namedDisk(state, mutation);
  if (disk.wanted === "release") return disk;
  refuseWiping(disk);
  if (!force) refuseInUse(disk, mutation);
  const released: DiskRow = {
    ...disk,
    ...newIntent(state, disk, mutation),
    wanted: "release",
    // Used again, it needs a new look.
    admitted: false,
    admittedSerial: undefined,
    admittedEvidence: undefined,
    admissionEnded: undefined,
    zeroRequestedTime: undefined,
  };
  state.disks.set(id, released);
  return released;
}

function refuseInUse(disk: DiskRow, { others }: ReleaseDisk): void {
  const { id, lvolCount, snapshotCount } = disk;
  const own = [counted(lvolCount, "volume"), counted(snapshotCount, "snapshot")];
  const there = [...own, others].filter((text) => text !== undefined);
  if (there.length === 0) return;
  const description = `it holds ${there.join(", ")}`;
  throw new Refusal(
    "IN_USE",
    `disk ${id}: ${description}; delete them, or release it with force and a reason: hosts then lose ` +
      `what is on it, and nothing of it is destroyed`,
    { preconditions: [{ subject: `disks/${id}`, description }] },
  );
}

function counted(count: number, what: string): string | undefined {
  if (count === 0) return undefined;
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}
