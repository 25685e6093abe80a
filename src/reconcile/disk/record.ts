// What is to be recorded of a disk, as a pure function of what was seen.
import { diskId, fleetHash, parseStoreName } from "../../model/identity.ts";
import { refusing, showsUse } from "../../model/disk-claim.ts";
import type { DiskState, DiskStatusPatch } from "../../model/disk.ts";
import { pendingOpPhase } from "../../model/pending-op.ts";
import type { DiskView } from "./view.ts";
import type { ObservedDisk, ObservedStore } from "../target/observed.ts";

type DiskPhase = { readonly state: DiskState; readonly stateReason: string };
type Patch = { -readonly [Key in keyof DiskStatusPatch]: DiskStatusPatch[Key] };

/** The columns that differ from the row; undefined when the row says what was seen already. */
export function diskRecord(view: DiskView): DiskStatusPatch | undefined {
  const { row } = view;
  const patch: Patch = {};
  const phase = diskPhase(view);
  if (phase !== undefined) {
    if (phase.state !== row.state) patch.state = phase.state;
    if (phase.stateReason !== row.stateReason) patch.stateReason = phase.stateReason;
    if (phase.state === "UP") Object.assign(patch, up(view));
  }
  Object.assign(patch, whereabouts(view));
  if (view.mayBeDirty && row.freeSpace === "ZEROED") patch.freeSpace = "UNKNOWN";
  if (pendingEnded(view)) patch.pendingOp = undefined;
  return Object.keys(patch).length === 0 ? undefined : patch;
}

/** Its effect was seen, or the target that it was sent to is gone. */
function pendingEnded(view: DiskView): boolean {
  const { row, onTarget, pending } = view;
  const phase = pendingOpPhase(row.pendingOp, pending);
  if (row.pendingOp === undefined || !view.targetListed || view.inFlight) return false;
  if (phase === "interrupted") return true;
  switch (row.pendingOp.op) {
    case "attach":
      return onTarget?.store !== undefined || (onTarget !== undefined && loadIsOver(view));
    case "detach":
      return onTarget === undefined;
    case "create-store":
      return onTarget?.store !== undefined;
    case "zero-free-space":
      return row.freeSpace === "ZEROED";
    case "delete":
      return false;
  }
}

/** No store is expected on it, or none comes any more. */
function loadIsOver({ row, loadEnded }: DiskView): boolean {
  return row.lvsUuid === undefined || loadEnded;
}

/** Where the disk stands; undefined while too little is known to say. */
export function diskPhase(view: DiskView): DiskPhase | undefined {
  const { row, onTarget } = view;
  const is = (state: DiskState, stateReason = ""): DiskPhase => ({ state, stateReason });
  if (view.duplicate) return is("CONFLICT", "another disk shows the same serial, model and nsid");
  if (row.state === "FAILED" && row.observedGeneration === row.generation) return undefined;
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
    // Minutes, after a crash: whoever attached it, and whether the answer came or not.
    return view.loadEnded
      ? is("FAILED", `store ${row.lvsUuid} did not come up`)
      : is("CLAIMING", "its store is being loaded");
  }
  if (!row.admitted) return is("DISCOVERED", "not admitted");
  if (fabric !== undefined && !fabric.format) {
    return is("FOREIGN", "no store on it, and its entry does not say that it may be formatted");
  }
  return is("CLAIMING", row.lastError ?? "");
}

/** Why a loaded store is not ours to use; undefined if it is ours. */
function foreignStore({ row, fleet }: DiskView, store: ObservedStore): string | undefined {
  const name = parseStoreName(store.name);
  if (name === undefined || name.fleet !== fleetHash(fleet)) {
    return `OTHER_FLEET: holds the store ${store.name}`;
  }
  if (name.diskId !== diskId(row)) return `COPY: holds the store of disk ${name.diskId}`;
  if (row.lvsUuid !== undefined) {
    return row.lvsUuid === store.uuid ? undefined : `COPY: its store has the uuid ${store.uuid}`;
  }
  // Recorded before it was made, so of our making; else somebody's, to be adopted by a call.
  return row.lvsName === store.name
    ? undefined
    : `OTHER_NODE: holds a store of this fleet that no row of this node knows; see AdoptDisk`;
}

function phaseInKernel(view: DiskView): DiskPhase {
  const { row, inKernel } = view;
  const is = (state: DiskState, stateReason = ""): DiskPhase => ({ state, stateReason });
  if (inKernel === undefined) return is("MISSING", `no function at ${row.address}`);
  const blocking = refusing(inKernel.evidence ?? [], row.lvsUuid !== undefined);
  const first = blocking[0];
  if (first !== undefined) {
    const why = `${first.kind}: ${first.subject} ${first.detail}`;
    return is(showsUse(blocking) ? "IN_USE" : "FOREIGN", why);
  }
  if (row.wanted === "release") return is("RELEASED");
  if (!row.admitted) return is("DISCOVERED", "not admitted");
  return is("CLAIMING", row.lastError ?? "");
}

/** What an UP disk's row says of its store and controller. */
function up({ row, onTarget }: DiskView): Patch {
  const patch: Patch = {};
  const store = onTarget?.store;
  if (onTarget === undefined || store === undefined) return patch;
  if (row.lvsUuid === undefined) {
    patch.lvsUuid = store.uuid;
    // Made with write_zeroes by us: SPDK writes the superblock last, so a store that is there was
    // zeroed to the end.
    patch.freeSpace = "ZEROED";
  }
  if (row.lvsName !== store.name) patch.lvsName = store.name;
  if (row.clusterBytes !== store.clusterBytes) patch.clusterBytes = store.clusterBytes;
  if (row.totalClusters !== store.totalClusters) patch.totalClusters = store.totalClusters;
  if (row.freeClusters !== store.freeClusters) patch.freeClusters = store.freeClusters;
  if (row.controllerName !== onTarget.controllerName) {
    patch.controllerName = onTarget.controllerName;
  }
  if (row.sizeBytes !== onTarget.sizeBytes) patch.sizeBytes = onTarget.sizeBytes;
  if (row.blockSize !== onTarget.blockSize) patch.blockSize = onTarget.blockSize;
  if (row.observedGeneration !== row.generation) patch.observedGeneration = row.generation;
  if (row.lastError !== undefined) {
    Object.assign(patch, { lastError: undefined, attempt: 0, nextTryTime: undefined });
  }
  return patch;
}

/** Where it was last seen. The time of seeing alone is no reason to write. */
function whereabouts({ row, inKernel, now }: DiskView): Patch {
  if (inKernel === undefined) return {};
  const patch: Patch = {};
  if (row.address !== inKernel.address) patch.address = inKernel.address;
  if (row.driver !== inKernel.driver) patch.driver = inKernel.driver;
  if (inKernel.kernelName !== undefined && row.kernelName !== inKernel.kernelName) {
    patch.kernelName = inKernel.kernelName;
  }
  if (inKernel.evidence !== undefined) {
    const print = JSON.stringify(inKernel.evidence);
    if (print !== JSON.stringify(row.evidence)) patch.evidence = inKernel.evidence;
  }
  if (Object.keys(patch).length > 0) patch.lastSeenTime = now;
  return patch;
}
