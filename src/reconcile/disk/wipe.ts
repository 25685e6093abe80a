// Wiping a disk, a step of disk-init: what the operator agreed to lose is looked for once more, and its first
// and last bytes are zeroed. Pure; perform-wipe.ts performs the step.
//
// A wipe ends undone, for good, once the disk is not what it was asked for any more: it was taken out, put
// to use or changed, or the wipe could not begin in time (docs/architecture.md#wiping-a-disk).
import type { DiskRow, DiskStatusPatch } from "../../model/disk.ts";
import { fingerprint, type Evidence } from "../../model/evidence.ts";
import { diskId } from "../../model/identity.ts";
import type { Wipe, WipePlace } from "../../model/wipe.ts";
import { namespacesOf } from "../../sysfs/closure.ts";
import type { NvmeTopology } from "../../sysfs/nvme.ts";
import { WIPE_BEGIN_MS } from "../../limits.ts";
import { KERNEL_DRIVER } from "../controller/closure-rules.ts";
import type { DiskStep } from "../steps.ts";
import type { DiskView } from "./view.ts";

export function planWipe(view: DiskView, wipe: Wipe): DiskStep | undefined {
  const { row, inKernel, inFlight, kernelListed, conflict, now } = view;
  const address = inKernel?.address ?? row.address;
  const step = { kind: "wipe-disk", address } as const;
  if (inFlight) return step;
  if (!kernelListed) return undefined;
  const why = whyItEnds(view, wipe);
  if (why !== undefined) return { kind: "record-disk", patch: endedWipe(row, now, why) };
  if (conflict !== undefined) return undefined;
  // The agent may have died after it had let the function go.
  const isLetGo = wipe.begun !== undefined && inKernel?.driver === undefined;
  return inKernel?.driver === KERNEL_DRIVER || isLetGo ? step : undefined;
}

function whyItEnds({ row, onTarget, inKernel, now }: DiskView, wipe: Wipe): string | undefined {
  if (onTarget !== undefined || isTaken(row)) return "it is in use by now";
  if (inKernel === undefined) return "it was taken out before it was done";
  const waitsMs = now.getTime() - wipe.requestedTime.getTime();
  if (wipe.begun !== undefined || waitsMs < WIPE_BEGIN_MS) return undefined;
  return `it could not begin within ${WIPE_BEGIN_MS / 60_000} minutes`;
}

/** Admitted or adopted since, or with volumes: never to be wiped. */
export function isTaken({ admitted, wanted, lvolCount, snapshotCount }: DiskRow): boolean {
  return admitted || wanted === "inspect" || lvolCount + snapshotCount > 0;
}

/** The wipe is over, and the disk is as it was, or half wiped. */
export function endedWipe(row: DiskRow, now: Date, why: string): DiskStatusPatch {
  const wipeEnded = `${now.toISOString()}: not wiped: ${why}`;
  const ended = { wipe: undefined, wipeEnded };
  // What it was taken for is another intent.
  return isTaken(row) ? ended : { ...ended, observedGeneration: row.generation };
}

/** The disk is blank: nothing that was known of a store on it holds any more. */
export function wiped(
  { generation, wanted }: Pick<DiskRow, "generation" | "wanted">,
  /** What was seen afterwards, of its place only. */
  evidence: readonly Evidence[],
): DiskStatusPatch {
  return {
    state: wanted === "release" ? "RELEASED" : "DISCOVERED",
    stateReason: wanted === "release" ? "" : "not admitted",
    evidence,
    evidenceFingerprint: fingerprint([]),
    wipe: undefined,
    wipeEnded: undefined,
    lvsName: undefined,
    lvsUuid: undefined,
    adoptedStore: undefined,
    controllerName: undefined,
    clusterBytes: undefined,
    totalClusters: undefined,
    freeClusters: undefined,
    freeSpace: "UNKNOWN",
    spaceLevel: "OK",
    zeroRequestedTime: undefined,
    zeroing: undefined,
    copyingRun: undefined,
    pendingOp: undefined,
    observedGeneration: generation,
  };
}

/** Where a disk is that the kernel shows, with its name there; undefined: nowhere. */
export function placeOfWipe(
  { functions }: NvmeTopology,
  { id }: Pick<DiskRow, "id">,
): (WipePlace & { readonly kernelName: string; readonly sizeBytes: bigint }) | undefined {
  const isIts = (one: { readonly serial: string; readonly model: string; readonly nsid: number }) =>
    one.serial !== "" && one.nsid > 0 && diskId(one) === id;
  const showing = functions.filter((one) => namespacesOf(one).some(isIts));
  const all = showing.flatMap(namespacesOf);
  const own = all.find(isIts);
  if (own === undefined) return undefined;
  return {
    kernelName: own.kernelName,
    sizeBytes: own.sizeBytes,
    functions: showing.map(({ pciAddress }) => pciAddress),
    partitions: own.partitions.length > 0,
    siblings: all.filter((one) => !isIts(one)).map(({ serial, nsid }) => ({ serial, nsid })),
  };
}
