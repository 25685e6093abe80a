// The loop `snapshot-delete`: deletes a snapshot once at most one clone stands on it, into which SPDK
// merges it; and a tombstone's snapshot that came back after a delete that failed halfway.
//
// It never deletes a snapshot that a clone is still being made of.
import { pendingOp, pendingOpPhase } from "../../model/pending-op.ts";
import { deleteBlockers } from "../../model/snapshot.ts";
import type { SnapshotLoop } from "../loop.ts";
import type { SnapshotStep } from "../steps.ts";
import { observeSnapshot } from "./snapshot-create.ts";
import type { SnapshotPlanView } from "./snapshot-view.ts";

export const snapshotDelete: SnapshotLoop = { name: "snapshot-delete", over: "snapshot", plan };

function plan(view: SnapshotPlanView): SnapshotStep | undefined {
  const { row, observed, store, family } = view;
  if (row.deleteRequestedTime === undefined || store === undefined) return undefined;
  const tombstone = row.deleteTime !== undefined;
  // As of lvol-delete: what was confirmed to be gone is not read again unless a full scan finds it.
  const confirmed = tombstone && row.pendingOp === undefined;
  if (confirmed && observed?.kind !== "present") return undefined;
  if (observed === undefined) return observeSnapshot(view, store);
  if (observed.kind === "absent") return undefined;
  if (row.lvolUuid !== observed.uuid) return undefined;
  if (view.wait !== undefined || deleteBlockers(family.clones).length > 0) return undefined;
  const phase = pendingOpPhase(row.pendingOp, view.pending);
  if (phase === "own" && row.pendingOp?.op === "delete") {
    // That its clusters are freed with their bytes is recorded before they are.
    if (row.adopted && view.diskDoubtful) return undefined;
    const lvolUuid = observed.uuid;
    return { kind: "delete-snapshot", lvsUuid: store.uuid, lvolUuid, cloneIds: family.clones.made };
  }
  if (phase === "running") return undefined;
  // Replaced only once the disk's row records that free clusters may hold old bytes.
  if (phase === "interrupted" && view.diskDoubtful) return undefined;
  const op = pendingOp("delete", view.pending);
  return op && { kind: "record-snapshot", patch: { pendingOp: op } };
}
