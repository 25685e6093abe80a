// The loop `disk-init`: brings an admitted disk to a loaded lvstore: claim, vfio-pci binding, NVMe
// controller, lvstore. Also zeroes free space on request.
//
// It never claims a disk with evidence against it, never formats without an admission and without
// blank evidence gathered in the same claim, and never formats a disk that ever had an lvstore of
// ours.
import { clusterBytesFor } from "../../model/bytes.ts";
import { refusesTaking } from "../../model/disk-claim.ts";
import { controllerName, storeName } from "../../model/identity.ts";
import type { DiskStatusPatch } from "../../model/disk.ts";
import type { Slice } from "./slices.ts";
import type { DiskView } from "./view.ts";
import type { DiskLoop } from "../loop.ts";
import { pendingOp, pendingOpPhase, type PendingOpKind } from "../../model/pending-op.ts";
import type { ObservedDisk, ObservedStore } from "../target/observed-disk.ts";
import type { DiskStep } from "../steps.ts";

export const diskInit: DiskLoop = { name: "disk-init", over: "disk", plan };

const VFIO = "vfio-pci";

function plan(view: DiskView): DiskStep | undefined {
  const { onTarget } = view;
  if (!view.targetConnected || !view.targetListed || view.duplicate) return undefined;
  if (onTarget !== undefined)
    return onTarget.store === undefined
      ? formatOrDetach(view, onTarget)
      : zero(view, onTarget.store);
  return view.fabric === undefined ? takePcie(view) : attachFabric(view, view.fabric);
}

/**
 * For an attached disk without an lvstore: creates one, detaches for inspection, or does nothing.
 */
function formatOrDetach(view: DiskView, onTarget: ObservedDisk): DiskStep | undefined {
  const { row, fabric, inKernel } = view;
  if (row.lvsUuid !== undefined || !row.admitted || row.wanted !== "take") return undefined;
  if (fabric === undefined && !view.claimedBlank) {
    // The disk was not inspected in this claim: release it to its driver and begin again.
    if (inKernel === undefined || row.originalDriver === undefined) return undefined;
    const { controllerName: name } = onTarget;
    return recordThen(view, "detach", { kind: "detach-disk", controllerName: name });
  }
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

/**
 * Zeroes free space if it is wanted and free clusters may hold old bytes. Slices that are left
 * over from an earlier run are zeroed in any case: they hold the clusters of everybody.
 */
function zero(view: DiskView, store: ObservedStore): DiskStep | undefined {
  const { row, slices } = view;
  const { uuid: lvsUuid } = store;
  if (row.state !== "UP" || lvsUuid !== row.lvsUuid) return undefined;
  const wanted = wantsZeroing(view);
  if (slices === undefined) return wanted ? { kind: "observe-slices", lvsUuid } : undefined;
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

function attachFabric(
  view: DiskView,
  entry: NonNullable<DiskView["fabric"]>,
): DiskStep | undefined {
  if (view.row.wanted !== "take") return undefined;
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

function takePcie(view: DiskView): DiskStep | undefined {
  const { row, inKernel } = view;
  if (!row.admitted || row.wanted !== "take" || inKernel === undefined) return undefined;
  const { address, driver } = inKernel;
  const ours = row.lvsUuid !== undefined;
  if (driver === VFIO) {
    // Bound to vfio-pci by an earlier process, so its content was not inspected: release it first.
    // With an lvstore name recorded, the earlier process may have created the lvstore: attach once
    // to find out.
    const uninspected =
      !ours && !view.claimedBlank && (view.foundEmpty || row.lvsName === undefined);
    if (uninspected) return release(view, address);
    return recordThen(view, "attach", {
      kind: "attach-disk",
      controllerName: controllerName({ traddr: address }),
      trtype: "PCIe",
      traddr: address,
      trsvcid: undefined,
      subnqn: undefined,
    });
  }
  if (driver === undefined) {
    // Interrupted between two drivers: bind it to its original driver and begin again.
    return release(view, address);
  }
  if (inKernel.evidence === undefined || refusesTaking(inKernel.evidence, ours)) return undefined;
  if (row.originalDriver !== driver) {
    return { kind: "record-disk", patch: { originalDriver: driver } };
  }
  return { kind: "claim-disk", address, ours };
}

function release({ row }: DiskView, address: string): DiskStep | undefined {
  if (row.originalDriver === undefined) return undefined;
  return { kind: "release-function", address, driver: row.originalDriver };
}
