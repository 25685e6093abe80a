// Turns observations of a volume into the status columns of its row, whichever loop made them.
// Pure.
import { isUuid } from "../../model/identity.ts";
import type { LvolRow, LvolStatusPatch } from "../../model/lvol.ts";
import { lvolState, namespaceState } from "../../model/lvol-state.ts";
import { sameFailures, worstFailure } from "../../model/failure.ts";
import { pendingOpPhase } from "../../model/pending-op.ts";
import { firstOfClone, isCloned } from "./clone.ts";
import { exportSettled } from "./export.ts";
import { isTooSmall } from "./size.ts";
import type { VolumePlanView } from "./view.ts";
import { maybeBeingMade } from "./wait.ts";

/**
 * The columns that differ from the row; undefined when the row already agrees with what is
 * observed.
 */
export function volumeRecord(view: VolumePlanView): LvolStatusPatch | undefined {
  const { row, observed } = view;
  if (row.deleteTime !== undefined) return endOfRepeatedDelete(view);
  const patch: { -readonly [Key in keyof LvolStatusPatch]: LvolStatusPatch[Key] } = {};
  if (observed.lvol?.kind === "present") {
    if (row.lvolUuid === undefined) {
      patch.lvolUuid = observed.lvol.uuid;
      // From now on hosts may reach it, whatever of its export is there already.
      if (mayBeExported(row)) patch.exported = true;
      const first = firstOfClone(view, observed.lvol);
      if (first !== undefined) patch.pendingOp = first;
    }
    const parentId = idOf(observed.lvol.parent);
    if (row.parentId !== parentId) patch.parentId = parentId;
    if (row.cloning && isCloned(view)) {
      patch.cloning = false;
      patch.pendingOp = undefined;
      if (mayBeExported({ ...row, cloning: false })) patch.exported = true;
    }
    if (row.lvsUuid !== observed.lvol.lvsUuid) patch.lvsUuid = observed.lvol.lvsUuid;
    if (row.observedSizeBytes !== observed.lvol.sizeBytes && !waitsForNamespace(view))
      patch.observedSizeBytes = observed.lvol.sizeBytes;
  }
  const lvolUuid = observed.lvol?.kind === "present" ? observed.lvol.uuid : row.lvolUuid;
  const namespace = namespaceState(row, observed.subsystem, lvolUuid);
  if (namespace === "attached" && !row.exported && lvolUuid !== undefined) patch.exported = true;
  if (isUnexported(view)) {
    patch.unexportedTime = view.now;
    patch.exported = false;
  }
  if (deleteIsComplete(view)) {
    patch.deleteTime = view.now;
    patch.exported = false;
    patch.pendingOp = undefined;
    patch.observedGeneration = row.generation;
    Object.assign(patch, CLEARED);
  } else if (row.observedGeneration !== row.generation && intentIsCarriedOut(view)) {
    patch.observedGeneration = row.generation;
  }
  if (resizeEnded(view)) patch.pendingOp = undefined;
  const connected = connectedPatch(view);
  // That nobody is connected is no reason to write, but goes along with what is written.
  const isNews = (connected.connectedHosts?.length ?? 0) > 0 || wasConnected(row);
  if (isNews || Object.keys(patch).length > 0) Object.assign(patch, connected);
  if (patch.deleteTime === undefined) Object.assign(patch, failuresPatch(view));
  return Object.keys(patch).length === 0 ? undefined : patch;
}

/** A snapshot that somebody else has made is no object of the node, and its name may be anything. */
function idOf(snapshotName: string | undefined): string | undefined {
  return snapshotName !== undefined && isUuid(snapshotName) ? snapshotName : undefined;
}

function mayBeExported({ deleteRequestedTime, unconfirmed, cloning }: LvolRow): boolean {
  return deleteRequestedTime === undefined && !unconfirmed && !cloning;
}

/**
 * The export of a volume that is being deleted has ended. One that is to be restored until then is absent
 * after a restart of the target, too.
 */
function isUnexported({
  row,
  observed,
  restoreUntilUnexported,
  inFlight,
  subsystemUnknown,
}: VolumePlanView): boolean {
  if (row.deleteRequestedTime === undefined || row.unexportedTime !== undefined) return false;
  if (subsystemUnknown !== undefined) return false;
  if (observed.exportEnded) return true;
  return observed.subsystem?.kind === "absent" && !restoreUntilUnexported && !inFlight;
}

function wasConnected({ connectedHosts }: LvolRow): boolean {
  return connectedHosts !== undefined && connectedHosts.length > 0;
}

/** UP, and each part of the export is as wanted or was refused by the target. */
function intentIsCarriedOut(view: VolumePlanView): boolean {
  return lvolState(view) === "UP" && exportSettled(view);
}

/**
 * Who is connected, recorded when it changes: after a restart of the target these hosts come back, and
 * none of them may find its volume gone.
 */
function connectedPatch({
  row,
  observed,
  pending,
  reconnectGraceOver,
}: VolumePlanView): LvolStatusPatch {
  const { connected } = observed;
  if (connected === undefined || pending.incarnation === undefined) return {};
  const hosts = connected.toSorted();
  const same = row.connectedHosts !== undefined && hosts.join() === row.connectedHosts.join();
  if (same && (hosts.length > 0 || row.connectedIncarnation === pending.incarnation)) return {};
  // After a restart hosts need a while to come back: until then nobody may be taken for gone.
  if (hosts.length === 0 && !observed.isNewExport && !reconnectGraceOver) return {};
  return { connectedHosts: hosts, connectedIncarnation: pending.incarnation };
}

/** The failures of the volume's steps, and the worst of them for people. */
function failuresPatch({ row, failures }: VolumePlanView): LvolStatusPatch {
  if (row.failed || sameFailures(row.failures, failures)) return {};
  const worst = worstFailure(failures);
  return {
    failures,
    lastError: worst?.message,
    attempt: worst?.attempt ?? 0,
    nextTryTime: worst?.nextTryTime,
  };
}

const CLEARED = { failures: {}, lastError: undefined, attempt: 0, nextTryTime: undefined } as const;

/** Deletion was requested, and lvol and subsystem were observed absent in this incarnation. */
function deleteIsComplete(view: VolumePlanView): boolean {
  const { row, observed } = view;
  return (
    row.deleteRequestedTime !== undefined &&
    row.deleteTime === undefined &&
    !view.inFlight &&
    view.outcomeUnknown === undefined &&
    (observed.lvol?.kind === "absent" || view.diskReleased) &&
    observed.subsystem?.kind === "absent" &&
    row.unexportedTime !== undefined &&
    absenceIsFinal(view)
  );
}

/** Of a grown lvol, whose end is recorded once its namespace was read as well: in one commit. */
function waitsForNamespace({ row, observed }: VolumePlanView): boolean {
  return row.pendingOp?.op === "resize" && observed.subsystemStale && !row.unconfirmed;
}

/** Nothing of the resize that the pending op announces is running, and the lvol is as large as wanted. */
function resizeEnded(view: VolumePlanView): boolean {
  const { row, observed, pending, inFlight, outcomeUnknown } = view;
  if (row.pendingOp?.op !== "resize" || inFlight || outcomeUnknown !== undefined) return false;
  if (observed.lvol?.kind !== "present" || isTooSmall(row, observed)) return false;
  if (waitsForNamespace(view)) return false;
  return pendingOpPhase(row.pendingOp, pending) !== "running";
}

/**
 * Whether an absent lvol stays absent. It may not while the create of an lvol that was never
 * observed, sent by an earlier agent, may still be running (until the grace ends), nor while the
 * delete may. It is not taken as final either while the disk's row still has to record a delete
 * that may have left clusters uncleared.
 */
function absenceIsFinal(view: VolumePlanView): boolean {
  const { row, pending, diskDoubtful } = view;
  if (maybeBeingMade(view)) return false;
  return pendingOpPhase(row.pendingOp, pending) !== "running" && !diskDoubtful;
}

/** Ends the pending op of a tombstone whose lvol had come back and was deleted again. */
function endOfRepeatedDelete(view: VolumePlanView): LvolStatusPatch | undefined {
  const { row, observed, inFlight, outcomeUnknown } = view;
  if (
    row.pendingOp === undefined ||
    inFlight ||
    outcomeUnknown !== undefined ||
    observed.lvol?.kind !== "absent"
  )
    return undefined;
  return absenceIsFinal(view) ? { pendingOp: undefined } : undefined;
}
