// lvol-delete: removes the lvol of a volume whose deletion was asked for, after its export is gone,
// and of a tombstone whose lvol came back after a delete that failed halfway.
//
// It never deletes what is still exported, and never an lvol whose uuid is not the row's.
import { pendingOp, standingOfPending } from "../../model/pending-op.ts";
import type { VolumeLoop } from "../loop.ts";
import { lookLvol } from "./provision.ts";
import type { VolumeStep } from "../steps.ts";
import type { VolumePlanView } from "./view.ts";

export const lvolDelete: VolumeLoop = { name: "lvol-delete", over: "lvol", plan };

function plan(view: VolumePlanView): VolumeStep | undefined {
  const { row, seen, store } = view;
  if (row.deleteRequestedTime === undefined || store === undefined) return undefined;
  const tombstone = row.deleteTime !== undefined;
  // A tombstone is only looked at once something was seen of it: it has been confirmed gone.
  if (tombstone && seen.lvol?.kind !== "present") return undefined;
  if (!tombstone && seen.subsystem?.kind !== "absent") return undefined;
  if (seen.lvol === undefined) return lookLvol(view, store);
  if (seen.lvol.kind === "absent") return undefined;
  // Recorded before it is deleted: a tombstone matches what comes back by this uuid. One that never
  // saw a uuid matches by name, which look has settled.
  if (row.lvolUuid !== seen.lvol.uuid && !(tombstone && row.lvolUuid === undefined))
    return undefined;
  return begin(view, seen.lvol.uuid);
}

/** Written down first; then sent, unless an earlier agent's delete may still be running. */
function begin(view: VolumePlanView, lvolUuid: string): VolumeStep | undefined {
  const { row, pending } = view;
  switch (standingOfPending(row.pendingOp, pending)) {
    case "own":
      return { kind: "delete-lvol", lvolUuid };
    case "running":
      return undefined;
    case "interrupted":
      // Forgotten only once the disk's row says what it may have left behind.
      if (view.diskDoubtful) return undefined;
      break;
    case "none":
    case "over":
      break;
  }
  const note = pendingOp("delete", pending);
  return note && { kind: "record-lvol", patch: { pendingOp: note } };
}
