// disk-init: from an admitted disk to a loaded store: claim, vfio binding, NVMe controller, lvstore.
//
// It never takes a disk with evidence against it, never formats without an admission and without
// evidence gathered in the very claim, and never formats a disk that ever had a store of ours.
import { clusterBytesFor } from "../../model/bytes.ts";
import { refusesTaking } from "../../model/disk-claim.ts";
import { controllerName, storeName } from "../../model/identity.ts";
import type { DiskView } from "./view.ts";
import type { DiskLoop } from "../loop.ts";
import { pendingOp, pendingOpPhase, type PendingOpKind } from "../../model/pending-op.ts";
import type { ObservedDisk, ObservedStore } from "../target/observed.ts";
import type { DiskStep } from "../steps.ts";

export const diskInit: DiskLoop = { name: "disk-init", over: "disk", plan };

const VFIO = "vfio-pci";

function plan(view: DiskView): DiskStep | undefined {
  const { onTarget } = view;
  if (!view.targetConnected || !view.targetListed || view.duplicate) return undefined;
  if (onTarget !== undefined)
    return onTarget.store === undefined ? format(view, onTarget) : zero(view, onTarget.store);
  return view.fabric === undefined ? takePcie(view) : attachFabric(view, view.fabric);
}

/** An attached disk without a store: made one, handed back to be inspected, or left as it is. */
function format(view: DiskView, onTarget: ObservedDisk): DiskStep | undefined {
  const { row, fabric, inKernel } = view;
  if (row.lvsUuid !== undefined || !row.admitted || row.wanted !== "take") return undefined;
  if (fabric === undefined && !view.claimedBlank) {
    // Nobody looked at it in this claim: back to its driver, and then from the start.
    if (inKernel === undefined || row.originalDriver === undefined) return undefined;
    const { controllerName: name } = onTarget;
    return begin(view, "detach", { kind: "detach-disk", controllerName: name });
  }
  if (fabric !== undefined && !fabric.format) return undefined;
  const name = storeName(view.fleet, row.id);
  const clusterBytes = clusterBytesFor(onTarget.sizeBytes);
  // Recorded first: a store that is found under this name is then known to be of our making.
  if (row.lvsName !== name || row.clusterBytes === undefined) {
    return { kind: "record-disk", patch: { lvsName: name, clusterBytes } };
  }
  return begin(view, "create-store", {
    kind: "create-store",
    bdevName: onTarget.bdevName,
    storeName: name,
    clusterBytes: row.clusterBytes,
  });
}

/** Asked for by a call, where free clusters may hold old bytes. */
function zero(view: DiskView, store: ObservedStore): DiskStep | undefined {
  const { row } = view;
  if (row.state !== "UP" || row.zeroRequestedTime === undefined) return undefined;
  if (row.freeSpace === "ZEROED" || store.uuid !== row.lvsUuid) return undefined;
  const { uuid: lvsUuid, name: lvsName } = store;
  return begin(view, "zero-free-space", { kind: "zero-free-space", lvsUuid, lvsName });
}

/**
 * A change of the disk's existence on the target: written down first, then made, unless an earlier
 * agent's may still be under way. While the database is away, only what brings a disk back is made.
 */
function begin(view: DiskView, op: PendingOpKind, step: DiskStep): DiskStep | undefined {
  const { row, pending, writeMode } = view;
  const phase = pendingOpPhase(row.pendingOp, pending);
  if (phase === "running") return undefined;
  if (phase === "own" && row.pendingOp?.op === op) return step;
  if (writeMode === "restore-only" && op === "attach") return step;
  const note = pendingOp(op, pending);
  return note && { kind: "record-disk", patch: { pendingOp: note } };
}

function attachFabric(
  view: DiskView,
  entry: NonNullable<DiskView["fabric"]>,
): DiskStep | undefined {
  if (view.row.wanted !== "take") return undefined;
  const { trtype, traddr, trsvcid, subnqn } = entry;
  const name = controllerName(entry);
  return begin(view, "attach", {
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
    // Nobody knows what is on it, unless it may hold the store that was being made when we ended.
    const unknown = !ours && !view.claimedBlank && (view.foundEmpty || row.lvsName === undefined);
    if (unknown) return release(view, address);
    return begin(view, "attach", {
      kind: "attach-disk",
      controllerName: controllerName({ traddr: address }),
      trtype: "PCIe",
      traddr: address,
      trsvcid: undefined,
      subnqn: undefined,
    });
  }
  if (driver === undefined) {
    // Half-way between two drivers: back to where it came from, and then from the start.
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
