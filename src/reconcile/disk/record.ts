// Turns observations of a disk into the status columns of its row. Pure.
import { diskId, fleetHash, parseStoreName } from "../../model/identity.ts";
import { refusing, saysOfDisk, showsUse } from "../../model/disk-claim.ts";
import { evidenceOf, fingerprint } from "../../model/evidence.ts";
import type { DiskState, DiskStatusPatch } from "../../model/disk.ts";
import { sameFailures, worstFailure } from "../../model/failure.ts";
import { pendingOpPhase } from "../../model/pending-op.ts";
import { diskSpace, isWorthRecording, recordedLevel } from "../../model/space.ts";
import { healthPatch } from "./health-record.ts";
import { wantsZeroing } from "./init.ts";
import type { DiskView } from "./view.ts";
import type { ObservedDisk, ObservedStore } from "../target/observed-disk.ts";

type DiskPhase = { readonly state: DiskState; readonly stateReason: string };
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
  }
  Object.assign(patch, kernelColumns(view), failuresPatch(view), healthPatch(view));
  if ((view.mayBeDirty || sliceCutOff(view)) && row.freeSpace === "ZEROED") {
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
    case "clone":
    case "inflate":
    case "detach":
      return false;
  }
}

/** The target has died while a slice was being deleted: its clusters may be free and not cleared. */
function sliceCutOff({ row, pending }: DiskView): boolean {
  const cutOff = pendingOpPhase(row.pendingOp, pending) === "interrupted";
  return cutOff && row.pendingOp?.op === "zero-free-space";
}

/** The disk has no lvstore recorded, or SPDK has finished loading lvstores without finding it. */
function noStoreExpected({ row, loadEnded }: DiskView): boolean {
  return row.lvsUuid === undefined || loadEnded;
}

/** Whether volumes can be made and exported on the disk now, and if not, why. */
export function readiness(view: DiskView): { readonly ready: boolean; readonly reason: string } {
  if (!view.targetConnected) return { ready: false, reason: "the SPDK target does not answer" };
  const phase = diskPhase(view);
  if (phase?.state === "UP" && view.row.lvsUuid !== undefined) return { ready: true, reason: "" };
  return { ready: false, reason: phase?.stateReason ?? view.row.stateReason };
}

/** The state of the disk and its reason; undefined while too little is observed. */
export function diskPhase(view: DiskView): DiskPhase | undefined {
  const { row, onTarget } = view;
  const is = (state: DiskState, stateReason = ""): DiskPhase => ({ state, stateReason });
  const isFabric = view.fabric !== undefined;
  if (view.conflict !== undefined && onTarget === undefined) return is("CONFLICT", view.conflict);
  const gaveUp = row.state === "FAILED" && row.observedGeneration === row.generation;
  // What a local disk failed at is its controller's matter, and ends with that.
  if (gaveUp && isFabric) return undefined;
  if (!view.targetConnected || !view.targetListed) return undefined;
  if (onTarget !== undefined) return phaseOnTarget(view, onTarget);
  if (view.fabric !== undefined) {
    return is(row.admitted ? "CLAIMING" : "DISCOVERED", row.lastError ?? "not attached");
  }
  return view.kernelListed ? phaseInKernel(view) : undefined;
}

function phaseOnTarget(view: DiskView, onTarget: ObservedDisk): DiskPhase {
  const { row, fabric } = view;
  const is = (state: DiskState, stateReason = ""): DiskPhase => ({ state, stateReason });
  const { store } = onTarget;
  if (store !== undefined) {
    const foreign = foreignStore(view, store);
    return foreign === undefined ? is("UP") : is("FOREIGN", foreign);
  }
  if (row.lvsUuid !== undefined) {
    // Loading takes minutes after a crash of the target.
    return view.loadEnded
      ? is("FAILED", `lvstore ${row.lvsUuid} was not found on the disk`)
      : is("CLAIMING", "its lvstore is being loaded");
  }
  if (!row.admitted) return is("DISCOVERED", row.admissionEnded ?? "not admitted");
  if (fabric !== undefined && !fabric.format) {
    return is("FOREIGN", "it has no lvstore, and its entry does not permit formatting it");
  }
  return is("CLAIMING", row.lastError ?? view.waits ?? "");
}

/** Why a loaded lvstore must not be used; undefined if it belongs to this disk and node. */
function foreignStore({ row, fleet }: DiskView, store: ObservedStore): string | undefined {
  const name = parseStoreName(store.name);
  if (name === undefined || name.fleet !== fleetHash(fleet)) {
    return `OTHER_FLEET: holds the lvstore ${store.name}`;
  }
  if (name.diskId !== diskId(row)) return `COPY: holds the lvstore of disk ${name.diskId}`;
  if (row.lvsUuid !== undefined) {
    return row.lvsUuid === store.uuid
      ? undefined
      : `COPY: its lvstore has the uuid ${store.uuid} instead of ${row.lvsUuid}`;
  }
  // The name is recorded before the lvstore is created, so with that name it was created by this
  // node; any other lvstore needs a call of AdoptDisk.
  return row.lvsName === store.name
    ? undefined
    : `OTHER_NODE: holds an lvstore of this fleet without a row of this node; see AdoptDisk`;
}

function phaseInKernel(view: DiskView): DiskPhase {
  const { row, inKernel } = view;
  const is = (state: DiskState, stateReason = ""): DiskPhase => ({ state, stateReason });
  if (inKernel === undefined) return is("MISSING", `it is on no PCI function; last ${row.address}`);
  if (view.setback !== undefined && row.admitted) return is("FAILED", view.setback);
  const blocking = refusing(inKernel.evidence ?? [], view.ownSubjects);
  const first = blocking.find(saysOfDisk) ?? blocking[0];
  const why = first && `${first.kind}: ${first.subject} ${first.detail}`;
  if (first !== undefined && saysOfDisk(first)) {
    return is(showsUse(blocking) ? "IN_USE" : "FOREIGN", why);
  }
  if (row.wanted === "release") return is("RELEASED");
  if (!row.admitted) return is("DISCOVERED", row.admissionEnded ?? why ?? "not admitted");
  return is("CLAIMING", row.lastError ?? why ?? view.waits ?? "");
}

/** The columns of an UP disk that describe its lvstore and its controller. */
function storeColumns({ row, onTarget }: DiskView): Patch {
  const patch: Patch = {};
  const store = onTarget?.store;
  if (onTarget === undefined || store === undefined) return patch;
  if (row.lvsUuid === undefined) {
    patch.lvsUuid = store.uuid;
    // This node created it with write_zeroes, and SPDK writes the superblock last: an lvstore that
    // exists was zeroed completely.
    patch.freeSpace = "ZEROED";
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
