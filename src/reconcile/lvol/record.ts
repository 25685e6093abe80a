// What is to be recorded of a volume, as a pure function of what was seen: the one place that turns
// observations into status columns, whichever loop made them.
import type { LvolStatusPatch } from "../../model/lvol.ts";
import { lvolState, namespaceState } from "../../model/lvol.ts";
import { pendingOpPhase } from "../../model/pending-op.ts";
import type { VolumePlanView } from "./view.ts";

/** The columns that differ from the row; undefined when the row says what was seen already. */
export function volumeRecord(view: VolumePlanView): LvolStatusPatch | undefined {
  const { row, observed } = view;
  if (row.deleteTime !== undefined) return endOfRepeatedDelete(view);
  const patch: { -readonly [Key in keyof LvolStatusPatch]: LvolStatusPatch[Key] } = {};
  if (observed.lvol?.kind === "present") {
    if (row.lvolUuid === undefined) patch.lvolUuid = observed.lvol.uuid;
    if (row.lvsUuid !== observed.lvol.lvsUuid) patch.lvsUuid = observed.lvol.lvsUuid;
    if (row.observedSizeBytes !== observed.lvol.sizeBytes)
      patch.observedSizeBytes = observed.lvol.sizeBytes;
  }
  const lvolUuid = observed.lvol?.kind === "present" ? observed.lvol.uuid : row.lvolUuid;
  const namespace = namespaceState(row, observed.subsystem, lvolUuid);
  if (namespace === "attached" && !row.exported && lvolUuid !== undefined) patch.exported = true;
  if (namespace === "absent" && row.exported && row.deleteRequestedTime !== undefined) {
    patch.exported = false;
  }
  if (gone(view)) {
    patch.deleteTime = view.now;
    patch.exported = false;
    patch.pendingOp = undefined;
    patch.observedGeneration = row.generation;
    Object.assign(patch, CLEARED);
  } else if (row.observedGeneration !== row.generation && lvolState(view) === "UP") {
    patch.observedGeneration = row.generation;
    Object.assign(patch, CLEARED);
  } else if (row.lastError !== undefined && lvolState(view) === "UP") {
    Object.assign(patch, CLEARED);
  }
  return Object.keys(patch).length === 0 ? undefined : patch;
}

const CLEARED = { lastError: undefined, attempt: 0, nextTryTime: undefined } as const;

/** Deletion was asked for, and both halves were seen to be absent in this run. */
function gone(view: VolumePlanView): boolean {
  const { row, observed } = view;
  return (
    row.deleteRequestedTime !== undefined &&
    row.deleteTime === undefined &&
    !view.inFlight &&
    observed.lvol?.kind === "absent" &&
    observed.subsystem?.kind === "absent" &&
    ended(view)
  );
}

/**
 * For a delete, absence alone proves nothing: it may be going on, or have been cut off. Nor does it
 * where the lvol was never seen: an earlier agent may have sent its creation.
 */
function ended({ row, pending, diskDoubtful }: VolumePlanView): boolean {
  if (row.lvolUuid === undefined && pending.now < pending.graceUntil) return false;
  return pendingOpPhase(row.pendingOp, pending) !== "running" && !diskDoubtful;
}

/** The lvol of a tombstone had come back and is gone again. */
function endOfRepeatedDelete(view: VolumePlanView): LvolStatusPatch | undefined {
  const { row, observed, inFlight } = view;
  if (row.pendingOp === undefined || inFlight || observed.lvol?.kind !== "absent") return undefined;
  return ended(view) ? { pendingOp: undefined } : undefined;
}
