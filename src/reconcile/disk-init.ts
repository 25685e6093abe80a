// disk-init: from an admitted disk to a loaded store: claim, vfio binding, NVMe controller, lvstore.
//
// It never takes a disk with evidence against it, never formats without an admission and without
// evidence gathered in the very claim, and never formats a disk that ever had a store of ours.
import { clusterBytesFor } from "../model/bytes.ts";
import { refusesTaking } from "../model/disk-claim.ts";
import { controllerName, storeName } from "../model/identity.ts";
import type { DiskView } from "./disk-view.ts";
import type { DiskLoop } from "./loop.ts";
import type { DiskOnTarget } from "./seen.ts";
import type { DiskStep } from "./steps.ts";

export const diskInit: DiskLoop = { name: "disk-init", over: "disk", plan };

export const VFIO = "vfio-pci";

export function plan(view: DiskView): DiskStep | undefined {
  const { row, onTarget } = view;
  if (!view.targetConnected || !view.targetListed || view.duplicate) return undefined;
  if (row.state === "FAILED" && row.observedGeneration === row.generation) return undefined;
  if (onTarget !== undefined)
    return onTarget.store === undefined ? format(view, onTarget) : undefined;
  return view.fabric === undefined ? takePcie(view) : attachFabric(view, view.fabric);
}

/** An attached disk without a store: made one, handed back to be inspected, or left as it is. */
function format(view: DiskView, onTarget: DiskOnTarget): DiskStep | undefined {
  const { row, fabric, inKernel } = view;
  if (row.lvsUuid !== undefined || !row.admitted || row.wanted !== "take") return undefined;
  if (fabric === undefined && !view.claimedBlank) {
    // Nobody looked at it in this claim: back to its driver, and then from the start.
    if (inKernel === undefined || row.originalDriver === undefined) return undefined;
    return { kind: "detach-disk", controllerName: onTarget.controllerName };
  }
  if (fabric !== undefined && !fabric.format) return undefined;
  const name = storeName(view.fleet, row.id);
  const clusterBytes = clusterBytesFor(onTarget.sizeBytes);
  // Recorded first: a store that is found under this name is then known to be of our making.
  if (row.lvsName !== name || row.clusterBytes === undefined) {
    return { kind: "record-disk", patch: { lvsName: name, clusterBytes } };
  }
  return {
    kind: "create-store",
    bdevName: onTarget.bdevName,
    storeName: name,
    clusterBytes: row.clusterBytes,
  };
}

function attachFabric(
  { row }: DiskView,
  entry: NonNullable<DiskView["fabric"]>,
): DiskStep | undefined {
  if (row.wanted !== "take") return undefined;
  const { trtype, traddr, trsvcid, subnqn } = entry;
  const name = controllerName(entry);
  return { kind: "attach-disk", controllerName: name, trtype, traddr, trsvcid, subnqn };
}

function takePcie(view: DiskView): DiskStep | undefined {
  const { row, inKernel } = view;
  if (!row.admitted || row.wanted !== "take" || inKernel === undefined) return undefined;
  const { address, driver } = inKernel;
  const ours = row.lvsUuid !== undefined;
  if (driver === VFIO) {
    // Nobody knows what is on it, unless it may hold the store that was being made when we ended.
    const unknown = !ours && !view.claimedBlank && (view.foundEmpty || row.lvsName === undefined);
    if (unknown) return giveBack(view, address);
    return {
      kind: "attach-disk",
      controllerName: controllerName({ traddr: address }),
      trtype: "PCIe",
      traddr: address,
      trsvcid: undefined,
      subnqn: undefined,
    };
  }
  if (driver === undefined) {
    // Half-way between two drivers: back to where it came from, and then from the start.
    return giveBack(view, address);
  }
  if (inKernel.evidence === undefined || refusesTaking(inKernel.evidence, ours)) return undefined;
  if (row.originalDriver !== driver) {
    return { kind: "record-disk", patch: { originalDriver: driver } };
  }
  return { kind: "claim-disk", address, ours };
}

function giveBack({ row }: DiskView, address: string): DiskStep | undefined {
  if (row.originalDriver === undefined) return undefined;
  return { kind: "give-back-disk", address, driver: row.originalDriver };
}
