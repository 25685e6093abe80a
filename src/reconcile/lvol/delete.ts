// The loop `lvol-delete`: deletes the lvol of a volume whose deletion was requested, once its
// export is gone, and of a tombstone whose lvol came back after a delete that failed halfway.
//
// It never deletes an lvol that is still exported, nor one whose uuid differs from the row's.
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
  // The lvol of a tombstone was confirmed gone: it is not read again unless a full scan finds it, or to
  // confirm that it was deleted again.
  const confirmed = tombstone && row.pendingOp === undefined;
  if (confirmed && observed.lvol?.kind !== "present") return undefined;
  if (observed.subsystem?.kind !== "absent") return undefined;
  if (!tombstone && view.restoreUntilUnexported) return undefined;
  if (observed.lvol === undefined) return observeLvol(view, store);
  if (observed.lvol.kind === "absent" || view.wait !== undefined) return undefined;
  // The uuid is recorded before the delete, since a tombstone is matched with a returning lvol by
  // uuid. A tombstone without a uuid was matched by alias in the full scan.
  if (row.lvolUuid !== observed.lvol.uuid && !(tombstone && row.lvolUuid === undefined))
    return undefined;
  return recordThenDelete(view, observed.lvol.uuid);
}

/** Records the pending op, then deletes. Waits while an earlier agent's delete may be running. */
function recordThenDelete(view: VolumePlanView, lvolUuid: string): VolumeStep | undefined {
  const { row, pending } = view;
  switch (pendingOpPhase(row.pendingOp, pending)) {
    case "own":
      // What was announced before the deletion was asked for was something else.
      if (row.pendingOp?.op !== "delete") break;
      // A restart restores the export until its end is committed, so nothing is deleted before that.
      if (row.unexportedTime === undefined) return undefined;
      // That its clusters are freed with their bytes is recorded before they are.
      if (row.adopted && view.diskDoubtful) return undefined;
      return { kind: "delete-lvol", lvolUuid };
    case "running":
      return undefined;
    case "interrupted":
      // Replaced only once the disk's row records that free clusters may hold old bytes.
      if (view.diskDoubtful) return undefined;
      break;
    case "none":
    case "over":
      break;
  }
  const op = pendingOp("delete", pending);
  return op && { kind: "record-lvol", patch: { pendingOp: op } };
}
