// Turns observations of a snapshot into the status columns of its row, whichever loop made them. Pure.
import { sameFailures, worstFailure } from "../../model/failure.ts";
import { pendingOpPhase } from "../../model/pending-op.ts";
import { snapshotState, type SnapshotStatusPatch } from "../../model/snapshot.ts";
import type { SnapshotPlanView } from "./snapshot-view.ts";

type Patch = { -readonly [Key in keyof SnapshotStatusPatch]: SnapshotStatusPatch[Key] };

/**
 * The columns that differ from the row; undefined when the row already agrees with what is observed.
 */
export function snapshotRecord(view: SnapshotPlanView): SnapshotStatusPatch | undefined {
  const { row, observed } = view;
  const patch: Patch = {};
  if (row.deleteTime !== undefined) {
    if (row.pendingOp !== undefined && isGone(view)) patch.pendingOp = undefined;
  } else if (row.deleteRequestedTime !== undefined && isGone(view)) {
    patch.deleteTime = view.now;
    patch.pendingOp = undefined;
    patch.observedGeneration = row.generation;
    Object.assign(patch, CLEARED);
  } else {
    if (observed?.kind === "present") Object.assign(patch, observedColumns(view, observed));
    if (earlierIsGone(view)) {
      Object.assign(patch, GIVEN_UP, { lastError: EARLIER_GONE, pendingOp: undefined });
    } else if (sourceIsGone(view)) {
      Object.assign(patch, GIVEN_UP, { lastError: SOURCE_GONE });
    }
    Object.assign(patch, failuresPatch(view));
  }
  return Object.keys(patch).length === 0 ? undefined : patch;
}

const CLEARED = { failures: {}, lastError: undefined, attempt: 0, nextTryTime: undefined } as const;
const GIVEN_UP = { failed: true, nextTryTime: undefined } as const;
const EARLIER_GONE =
  "the row comes from an older database: the snapshot may have been taken and deleted since";
const SOURCE_GONE = "the volume was deleted or lost before the snapshot was taken";

function observedColumns(
  view: SnapshotPlanView,
  lvol: Extract<SnapshotPlanView["observed"], { kind: "present" }>,
): Patch {
  const { row, inFlight } = view;
  const patch: Patch = {};
  if (row.lvolUuid === undefined) patch.lvolUuid = lvol.uuid;
  if (row.lvsUuid !== lvol.lvsUuid) patch.lvsUuid = lvol.lvsUuid;
  if (row.observedSizeBytes !== lvol.sizeBytes) patch.observedSizeBytes = lvol.sizeBytes;
  if (row.parentId !== lvol.parent) patch.parentId = lvol.parent;
  const { op } = row.pendingOp ?? {};
  const isTaken = op === "snapshot" || op === "earlier-snapshot";
  if (isTaken && !inFlight) patch.pendingOp = undefined;
  const isUp = snapshotState({ ...view, row: { ...row, ...patch } }) === "UP";
  if (isUp && row.observedGeneration !== row.generation) patch.observedGeneration = row.generation;
  return patch;
}

/** Observed absent, and nothing that may still be running can make it appear. */
function isGone({
  row,
  observed,
  inFlight,
  outcomeUnknown,
  pending,
  diskDoubtful,
  diskReleased,
}: SnapshotPlanView): boolean {
  if (inFlight || outcomeUnknown !== undefined) return false;
  if (observed?.kind !== "absent" && !diskReleased) return false;
  return pendingOpPhase(row.pendingOp, pending) !== "running" && !diskDoubtful;
}

/** The store was read, and has no snapshot that was taken after the older database was saved. */
function earlierIsGone({ row, observed, pending }: SnapshotPlanView): boolean {
  if (row.pendingOp?.op !== "earlier-snapshot" || observed?.kind !== "absent") return false;
  return pendingOpPhase(row.pendingOp, pending) !== "running";
}

/** It was not taken, and never can be. */
function sourceIsGone({ row, observed, source, pending }: SnapshotPlanView): boolean {
  if (row.failed || row.lvolUuid !== undefined || row.deleteRequestedTime !== undefined)
    return false;
  if (observed?.kind !== "absent" || pendingOpPhase(row.pendingOp, pending) === "running")
    return false;
  const gone = source === undefined || source.row.deleteTime !== undefined;
  return gone || (source.lvol?.kind === "absent" && source.row.lvolUuid !== undefined);
}

/** The failures of the snapshot's steps, and the worst of them for people. */
function failuresPatch({ row, failures }: SnapshotPlanView): Patch {
  if (row.failed || sameFailures(row.failures, failures)) return {};
  const worst = worstFailure(failures);
  return {
    failures,
    lastError: worst?.message,
    attempt: worst?.attempt ?? 0,
    nextTryTime: worst?.nextTryTime,
  };
}
