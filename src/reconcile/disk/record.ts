// Turns observations of a disk into the status columns of its row. Pure.
import { evidenceOf, fingerprint } from "../../model/evidence.ts";
import { isInspecting, type DiskStatusPatch } from "../../model/disk.ts";
import { sameFailures, worstFailure } from "../../model/failure.ts";
import { pendingOpPhase } from "../../model/pending-op.ts";
import { diskSpace, isWorthRecording, recordedLevel } from "../../model/space.ts";
import { healthPatch } from "./health-record.ts";
import { wantsZeroing } from "./init.ts";
import { diskPhase } from "./phase.ts";
import type { DiskView } from "./view.ts";

type Patch = { -readonly [Key in keyof DiskStatusPatch]: DiskStatusPatch[Key] };

/**
 * The columns that differ from the row; undefined when the row already agrees with what is
 * observed.
 */
export function diskRecord(view: DiskView): DiskStatusPatch | undefined {
  const { row } = view;
  const patch: Patch = {};
  const phase = diskPhase(view);
  if (phase !== undefined) {
    if (phase.state !== row.state) patch.state = phase.state;
    if (phase.stateReason !== row.stateReason) patch.stateReason = phase.stateReason;
    if (phase.state === "UP") Object.assign(patch, storeColumns(view));
    if (wasInspected(view)) patch.observedGeneration = row.generation;
    if (phase.state === "RELEASED") Object.assign(patch, releasedColumns(view));
  }
  Object.assign(patch, kernelColumns(view), failuresPatch(view), healthPatch(view));
  if ((view.mayBeDirty || sliceCutOff(view) || copyCutOff(view)) && row.freeSpace === "ZEROED") {
    patch.freeSpace = "UNKNOWN";
  }
  Object.assign(patch, copyingColumn(view));
  const ended = pendingEnded(view);
  if (ended) patch.pendingOp = undefined;
  // Free clusters are held again before they count as zeroed.
  if (row.zeroing !== undefined && (ended || view.mayBeDirty)) patch.zeroing = undefined;
  if (phase?.state === "UP") Object.assign(patch, spaceColumns(view, patch));
  return Object.keys(patch).length === 0 ? undefined : patch;
}

/**
 * Which incarnation may copy clusters on write, before any does: from the intent of the first snapshot on.
 * What an earlier one may have left is recorded with it.
 */
function copyingColumn({ row, pending }: DiskView): Patch {
  const { incarnation } = pending;
  if (incarnation === undefined || row.copyingRun === incarnation) return {};
  const copyingRun = row.snapshotCount > 0 ? incarnation : undefined;
  if (row.copyingRun !== undefined) return { copyingRun, freeSpace: "UNKNOWN" };
  return copyingRun === undefined ? {} : { copyingRun };
}

/** A few clusters more or less are no reason to write, but go along with what is written. */
function spaceColumns({ row, onTarget, spaceThresholds }: DiskView, others: Patch): Patch {
  const patch: Patch = {};
  // Of a disk that is UP, so the store is its own, also if its uuid is recorded only now.
  const space = onTarget?.store && diskSpace(row, onTarget.store, spaceThresholds);
  if (space === undefined) return patch;
  const level = recordedLevel(space);
  if (row.spaceLevel !== level) patch.spaceLevel = level;
  const isWritten = Object.keys({ ...others, ...patch }).length > 0;
  if (isWritten || isWorthRecording(row.freeClusters, space, spaceThresholds)) {
    if (row.freeClusters !== space.freeClusters) patch.freeClusters = space.freeClusters;
  }
  return patch;
}

/** The store that was to be read is loaded, or it has none. */
function wasInspected({ row, onTarget, loadEnded }: DiskView): boolean {
  return isInspecting(row) && onTarget !== undefined && (onTarget.store !== undefined || loadEnded);
}

/** The effect of the pending op was observed, or its incarnation of the target has ended. */
function pendingEnded(view: DiskView): boolean {
  const { row, onTarget, pending } = view;
  const phase = pendingOpPhase(row.pendingOp, pending);
  if (row.pendingOp === undefined || !view.targetListed || view.inFlight) return false;
  if (phase === "interrupted") return true;
  switch (row.pendingOp.op) {
    case "attach":
      return onTarget?.store !== undefined || (onTarget !== undefined && noStoreExpected(view));
    case "create-store":
      return onTarget?.store !== undefined;
    case "zero-free-space":
      return !wantsZeroing(view) && (view.slices ?? []).length === 0;
    case "purge-orphan":
      return phase === "over";
    case "delete":
    case "resize":
    case "snapshot":
    case "earlier-snapshot":
    case "clone":
    case "inflate":
      return false;
    case "detach":
      return onTarget === undefined;
  }
}

/** The target has died while a slice was being deleted: its clusters may be free and not cleared. */
function sliceCutOff({ row, pending }: DiskView): boolean {
  const cutOff = pendingOpPhase(row.pendingOp, pending) === "interrupted";
  return cutOff && row.pendingOp?.op === "zero-free-space";
}

/** The disk went away under hosts: one may have been writing to a volume with a snapshot. */
function copyCutOff({ row, onTarget, targetListed }: DiskView): boolean {
  return row.copyingRun !== undefined && targetListed && onTarget?.store === undefined;
}

/** The disk has no lvstore recorded, or SPDK has finished loading lvstores without finding it. */
function noStoreExpected({ row, loadEnded }: DiskView): boolean {
  return row.lvsUuid === undefined || loadEnded;
}

/** The columns of an UP disk that describe its lvstore and its controller. */
function storeColumns({ row, onTarget }: DiskView): Patch {
  const patch: Patch = {};
  const store = onTarget?.store;
  if (onTarget === undefined || store === undefined) return patch;
  if (row.lvsUuid === undefined) {
    patch.lvsUuid = store.uuid;
    // This node created it with write_zeroes, and SPDK writes the superblock last: an lvstore that
    // exists was zeroed completely. Of what somebody else has made nothing is known.
    patch.freeSpace = row.adoptedStore === store.uuid ? "UNKNOWN" : "ZEROED";
  }
  if (row.lvsName !== store.name) patch.lvsName = store.name;
  if (row.clusterBytes !== store.clusterBytes) patch.clusterBytes = store.clusterBytes;
  if (row.totalClusters !== store.totalClusters) patch.totalClusters = store.totalClusters;
  if (row.controllerName !== onTarget.controllerName) {
    patch.controllerName = onTarget.controllerName;
  }
  if (row.sizeBytes !== onTarget.sizeBytes) patch.sizeBytes = onTarget.sizeBytes;
  if (row.blockSize !== onTarget.blockSize) patch.blockSize = onTarget.blockSize;
  if (row.observedGeneration !== row.generation) patch.observedGeneration = row.generation;
  return patch;
}

/** Others may use it from now on: what only this node could know of it does not hold any more. */
function releasedColumns({ row }: DiskView): Patch {
  const patch: Patch = {};
  if (row.freeSpace === "ZEROED") patch.freeSpace = "UNKNOWN";
  // A store of that name need not be the one that this node was making.
  if (row.lvsUuid === undefined && row.lvsName !== undefined) patch.lvsName = undefined;
  if (row.controllerName !== undefined) patch.controllerName = undefined;
  if (row.zeroing !== undefined) patch.zeroing = undefined;
  if (row.pendingOp !== undefined) patch.pendingOp = undefined;
  if (row.observedGeneration !== row.generation) patch.observedGeneration = row.generation;
  return patch;
}

/** The columns that describe the disk in the kernel. lastSeenTime alone is no reason to write. */
function kernelColumns(view: DiskView): Patch {
  const { row, inKernel, now: time } = view;
  if (inKernel === undefined) return {};
  const patch: Patch = {};
  if (row.address !== inKernel.address) patch.address = inKernel.address;
  if (row.driver !== inKernel.driver) patch.driver = inKernel.driver;
  const { nguid = row.nguid, eui64 = row.eui64 } = inKernel;
  if (view.conflict === undefined && nguid !== row.nguid) patch.nguid = nguid;
  if (view.conflict === undefined && eui64 !== row.eui64) patch.eui64 = eui64;
  if (inKernel.kernelName !== undefined && row.kernelName !== inKernel.kernelName) {
    patch.kernelName = inKernel.kernelName;
  }
  if (inKernel.evidence !== undefined) {
    const evidence = JSON.stringify(inKernel.evidence);
    if (evidence !== JSON.stringify(row.evidence)) patch.evidence = inKernel.evidence;
    const seen = fingerprint(evidenceOf(row, inKernel.evidence));
    if (seen !== row.evidenceFingerprint) patch.evidenceFingerprint = seen;
  }
  if (Object.keys(patch).length > 0) patch.lastSeenTime = time;
  return patch;
}

/** The failures of the disk's steps, and the worst of them for people. */
function failuresPatch({ row, failures }: DiskView): Patch {
  const gaveUp = row.state === "FAILED" && row.observedGeneration === row.generation;
  if (gaveUp || sameFailures(row.failures, failures)) return {};
  const worst = worstFailure(failures);
  return {
    failures,
    lastError: worst?.message,
    attempt: worst?.attempt ?? 0,
    nextTryTime: worst?.nextTryTime,
  };
}
