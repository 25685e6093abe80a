// lvol-delete: removes the lvol of a volume whose deletion was asked for, after its export is gone,
// and of a tombstone whose lvol came back after a delete that failed halfway.
//
// It never deletes what is still exported, and never an lvol whose uuid is not the row's.
import { pendingOp, pendingOpPhase } from "../../model/pending-op.ts";
import type { VolumeLoop } from "../loop.ts";
import { observeLvol } from "./provision.ts";
import type { VolumeStep } from "../steps.ts";
import type { VolumePlanView } from "./view.ts";

export const lvolDelete: VolumeLoop = { name: "lvol-delete", over: "lvol", plan };

function plan(view: VolumePlanView): VolumeStep | undefined {
  const { row, observed, store } = view;
  if (row.deleteRequestedTime === undefined || store === undefined) return undefined;
  const tombstone = row.deleteTime !== undefined;
  // A tombstone is only looked at once something was seen of it: it has been confirmed gone.
  if (tombstone && observed.lvol?.kind !== "present") return undefined;
  if (!tombstone && observed.subsystem?.kind !== "absent") return undefined;
  if (observed.lvol === undefined) return observeLvol(view, store);
  if (observed.lvol.kind === "absent") return undefined;
  // Recorded before it is deleted: a tombstone matches what comes back by this uuid. One that never
  // saw a uuid matches by name, which look has settled.
  if (row.lvolUuid !== observed.lvol.uuid && !(tombstone && row.lvolUuid === undefined))
    return undefined;
  return begin(view, observed.lvol.uuid);
}

/** Written down first; then sent, unless an earlier agent's delete may still be running. */
function begin(view: VolumePlanView, lvolUuid: string): VolumeStep | undefined {
  const { row, pending } = view;
  switch (pendingOpPhase(row.pendingOp, pending)) {
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
