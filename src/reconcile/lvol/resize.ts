// The loop `resize`: grows the lvol of a volume to the wanted size, while hosts use it.
//
// It never shrinks: a larger lvol is left as it is. It grows no lvol of a volume that is being deleted,
// and takes clusters only while free ones are known to be zeroed.
import { pendingOp, pendingOpPhase, type PendingOp } from "../../model/pending-op.ts";
import type { VolumeLoop } from "../loop.ts";
import type { VolumeStep } from "../steps.ts";
import { isTooSmall } from "./size.ts";
import type { VolumePlanView } from "./view.ts";

export const resize: VolumeLoop = { name: "resize", over: "lvol", plan };

/**
 * Announces a resize in the commit of its intent; undefined: not yet, or another change is announced.
 */
export function pendingResize(view: VolumePlanView): PendingOp | undefined {
  const { row, observed, pending } = view;
  if (row.pendingOp !== undefined || row.cloning || view.store === undefined) return undefined;
  return observed.lvol?.kind === "present" ? pendingOp("resize", pending) : undefined;
}

function plan(view: VolumePlanView): VolumeStep | undefined {
  const { row, observed, pending } = view;
  if (view.store === undefined || row.deleteRequestedTime !== undefined) return undefined;
  // A clone in the making grows as a part of that.
  if (row.cloning) return undefined;
  // The uuid is recorded first: until then the lvol may not be the volume's.
  if (observed.lvol?.kind !== "present" || row.lvolUuid !== observed.lvol.uuid) return undefined;
  if (!isTooSmall(row, observed) || view.wait !== undefined) return undefined;
  switch (pendingOpPhase(row.pendingOp, pending)) {
    case "own":
      if (row.pendingOp?.op !== "resize") return undefined;
      return { kind: "resize-lvol", lvolUuid: row.lvolUuid, sizeBytes: row.promisedBytes };
    case "running":
      // A resize of an earlier agent, to a smaller size, would cut off what this one adds.
      return undefined;
    case "interrupted":
    case "none":
    case "over":
      break;
  }
  const op = pendingOp("resize", pending);
  return op && { kind: "record-lvol", patch: { pendingOp: op } };
}
