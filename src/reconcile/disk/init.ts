// The loop `disk-init`: brings an admitted disk that is attached to a loaded lvstore, and attaches and
// detaches disks on a fabric. Also zeroes free space on request, and wipes disks (wipe.ts). Controllers of local
// disks are not its matter (controller/take.ts).
//
// It never formats without an admission and without blank evidence gathered in the claim of its
// controller, and never formats a disk that ever had an lvstore of ours.
import { clusterBytesFor } from "../../model/bytes.ts";
import { controllerName, storeName } from "../../model/identity.ts";
import type { DiskStatusPatch } from "../../model/disk.ts";
import type { Slice } from "./slices.ts";
import type { DiskView } from "./view.ts";
import { planWipe } from "./wipe.ts";
import type { DiskLoop } from "../loop.ts";
import {
  isInGrace,
  pendingOp,
  pendingOpPhase,
  type PendingOpKind,
} from "../../model/pending-op.ts";
import type { ObservedDisk, ObservedStore } from "../target/observed-disk.ts";
import type { DiskStep } from "../steps.ts";

export const diskInit: DiskLoop = { name: "disk-init", over: "disk", plan };

function plan(view: DiskView): DiskStep | undefined {
  const { onTarget } = view;
  // Its controller is under its kernel driver: the target has no part in it.
  if (view.row.wipe !== undefined) return planWipe(view, view.row.wipe);
  if (!view.targetConnected || !view.targetListed) return undefined;
  if (view.row.wanted === "release") return detachFabric(view);
  if (onTarget !== undefined)
    return onTarget.store === undefined ? format(view, onTarget) : keep(view, onTarget.store);
  return view.fabric === undefined ? undefined : attachFabric(view, view.fabric);
}

/** For an attached disk without an lvstore: creates one, or does nothing. */
function format(view: DiskView, onTarget: ObservedDisk): DiskStep | undefined {
  const { row, fabric } = view;
  if (view.conflict !== undefined || view.setback !== undefined) return undefined;
  if (
    row.lvsUuid !== undefined ||
    row.adoptedStore !== undefined ||
    !row.admitted ||
    row.wanted !== "take"
  )
    return undefined;
  // Its controller is given back to its driver first, which shows what is on it.
  if (fabric === undefined && !view.claimedBlank) return undefined;
  if (fabric !== undefined && !fabric.format) return undefined;
  // A store that is still being loaded does not keep SPDK from formatting the disk it lies on.
  if (!view.loadEnded) return undefined;
  const name = storeName(view.fleet, row.id);
  const clusterBytes = clusterBytesFor(onTarget.sizeBytes);
  // The name is recorded first, so that an lvstore found with it is known to be created by this
  // node.
  if (row.lvsName !== name || row.clusterBytes === undefined) {
    return { kind: "record-disk", patch: { lvsName: name, clusterBytes } };
  }
  return recordThen(view, "create-store", {
    kind: "create-store",
    bdevName: onTarget.bdevName,
    storeName: name,
    clusterBytes: row.clusterBytes,
  });
}

/** An adopted store gets the name that says whose it is, before anything else is done with it. */
function keep(view: DiskView, store: ObservedStore): DiskStep | undefined {
  const { row, fleet } = view;
  const newName = storeName(fleet, row.id);
  if (row.adoptedStore !== store.uuid || store.name === newName) return zero(view, store);
  return { kind: "rename-store", lvsUuid: store.uuid, oldName: store.name, newName };
}

/**
 * Zeroes free space if it is wanted and free clusters may hold old bytes. Slices that are left
 * over from an earlier run are zeroed in any case: they hold the clusters of everybody. What is free stays as
 * clean as the row says, as their delete clears them; a filler's does not.
 */
function zero(view: DiskView, store: ObservedStore): DiskStep | undefined {
  const { row, slices } = view;
  const { uuid: lvsUuid } = store;
  if (row.state !== "UP" || lvsUuid !== row.lvsUuid) return undefined;
  const wanted = wantsZeroing(view);
  if (slices === undefined) return wanted ? { kind: "observe-slices", lvsUuid } : undefined;
  if (row.freeSpace === "ZEROED" && slices.some(({ isFiller }) => isFiller)) {
    return { kind: "record-disk", patch: { freeSpace: "UNKNOWN" } };
  }
  const zeroNext = zeroSmallest(lvsUuid, slices);
  // What is free may get dirty at any time, or has just become so: it is held later, or again.
  if (!wanted || view.mayBeDirty) return zeroNext && recordZeroing(view, zeroNext);
  if (!isPinned(view)) {
    // Slices that could not take everything must not keep clusters from hosts for long.
    const failed = view.failures["disk-init/pin-free-space"] !== undefined;
    const first = failed ? zeroNext : undefined;
    return recordZeroing(view, first ?? { kind: "pin-free-space", lvsUuid });
  }
  if (zeroNext === undefined) return { kind: "record-disk", patch: ZEROED };
  return isResting(view) ? undefined : zeroNext;
}

const ZEROED = {
  freeSpace: "ZEROED",
  zeroRequestedTime: undefined,
  zeroing: undefined,
  pendingOp: undefined,
} as const satisfies DiskStatusPatch;

function zeroSmallest(lvsUuid: string, [slice]: readonly Slice[]): DiskStep | undefined {
  if (slice === undefined) return undefined;
  return { kind: "zero-slice", lvsUuid, lvolUuid: slice.uuid, name: slice.name };
}

/** A call asked for it, or the agent does it by itself, and it is not done. */
export function wantsZeroing({
  row,
  zeroesByItself,
}: Pick<DiskView, "row" | "zeroesByItself">): boolean {
  if (row.freeSpace === "ZEROED") return false;
  return zeroesByItself || row.zeroRequestedTime !== undefined;
}

/** What nobody has asked for leaves the disk to its hosts for a while. */
function isResting({ row, zeroingRests, now }: DiskView): boolean {
  if (row.zeroRequestedTime !== undefined || zeroingRests === undefined) return false;
  return now < zeroingRests;
}

/** This agent has seen slices hold all that was free, in this incarnation. */
function isPinned({ row, pending, slices = [] }: DiskView): boolean {
  // What an earlier run has left over is not cleared by its delete: it becomes free, and is held.
  if (slices.some(({ isFiller }) => isFiller)) return false;
  const own = pendingOpPhase(row.pendingOp, pending) === "own";
  return own && row.pendingOp?.op === "zero-free-space" && row.zeroing !== undefined;
}

/** As recordThen: what was zeroed under an earlier record counts for nothing. */
function recordZeroing(view: DiskView, step: DiskStep): DiskStep | undefined {
  const next = recordThen(view, "zero-free-space", step);
  const records = next?.kind === "record-disk" && next !== step;
  return records ? { ...next, patch: { ...next.patch, zeroing: undefined } } : next;
}

/**
 * Records the pending op first and plans the step once that is committed. Waits while a step of an
 * earlier agent may be running. In the write mode `restore-only` nothing can be recorded: an attach
 * is planned without it, other steps are not permitted.
 */
function recordThen(view: DiskView, op: PendingOpKind, step: DiskStep): DiskStep | undefined {
  const { row, pending, writeMode } = view;
  const phase = pendingOpPhase(row.pendingOp, pending);
  if (phase === "running") return undefined;
  if (phase === "own" && row.pendingOp?.op === op) return step;
  if (writeMode === "restore-only" && op === "attach") return step;
  const recorded = pendingOp(op, pending);
  return recorded && { kind: "record-disk", patch: { pendingOp: recorded } };
}

/**
 * What is released goes once nothing of it is exported, nothing else on its controller is used, and no earlier
 * agent can be changing an lvol on it.
 */
function detachFabric(view: DiskView): DiskStep | undefined {
  const { fabric, onTarget, exportsLeft, heldBy, pending } = view;
  if (fabric === undefined || onTarget === undefined) return undefined;
  if (exportsLeft > 0 || heldBy.length > 0 || isInGrace(pending)) return undefined;
  const { controllerName: name } = onTarget;
  return recordThen(view, "detach", { kind: "detach-disk", controllerName: name });
}

function attachFabric(
  view: DiskView,
  entry: NonNullable<DiskView["fabric"]>,
): DiskStep | undefined {
  if (view.row.wanted === "release" || view.waits !== undefined) return undefined;
  const { trtype, traddr, trsvcid, subnqn } = entry;
  const name = controllerName(entry);
  return recordThen(view, "attach", {
    kind: "attach-disk",
    controllerName: name,
    trtype,
    traddr,
    trsvcid,
    subnqn,
  });
}
