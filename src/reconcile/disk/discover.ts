// disk-discover: one row per physical disk, where each disk is just now, and what speaks against it.
//
// It never concludes that a disk is gone because /sys/block no longer lists it: a disk on vfio-pci or
// attached in the target is present. It takes nothing and changes nothing but rows.
import { isAllowed, type Config, type FabricDisk } from "../../config.ts";
import type { DiskRow } from "../../model/disk.ts";
import { blank, fingerprint, type Evidence } from "../../model/evidence.ts";
import { diskId } from "../../model/identity.ts";
import type { NvmeNamespace, NvmeTopology } from "../../sysfs/nvme.ts";
import type { DiskInKernel } from "./view.ts";

/** What one look at the kernel says, by disk id. */
export type KernelFindings = {
  readonly disks: ReadonlyMap<string, DiskInKernel & { readonly namespace?: NvmeNamespace }>;
  /** Ids that two different disks show. */
  readonly duplicates: ReadonlySet<string>;
  /** Disks without a serial number: they cannot be told apart, so they are never taken. */
  readonly withoutSerial: readonly string[];
};

/** Which disks a topology shows; `rows` tell which disk a function without a kernel driver is. */
export function findInKernel(topology: NvmeTopology, rows: Iterable<DiskRow>): KernelFindings {
  const disks = new Map<string, DiskInKernel & { readonly namespace?: NvmeNamespace }>();
  const duplicates = new Set<string>();
  const withoutSerial: string[] = [];
  const silent = new Map<string, string | undefined>();
  for (const { pciAddress, driver, controllers } of topology.functions) {
    const namespaces = controllers.flatMap((controller) => controller.namespaces);
    if (namespaces.length === 0) silent.set(pciAddress, driver);
    for (const namespace of namespaces) {
      const { serial, model, nsid, kernelName } = namespace;
      if (serial === "" || nsid < 1) {
        withoutSerial.push(kernelName);
        continue;
      }
      const id = diskId({ serial, model, nsid });
      const other = disks.get(id);
      // Two paths to one namespace show one block device; two disks show two.
      if (other !== undefined && other.kernelName !== kernelName) duplicates.add(id);
      disks.set(id, { address: pciAddress, driver, kernelName, evidence: undefined, namespace });
    }
  }
  for (const row of rows) {
    if (row.transport !== "PCIe" || disks.has(row.id) || !silent.has(row.address)) continue;
    const driver = silent.get(row.address);
    disks.set(row.id, { address: row.address, driver, kernelName: undefined, evidence: undefined });
  }
  return { disks, duplicates, withoutSerial };
}

type NewDisk = Pick<
  DiskRow,
  "serial" | "model" | "nsid" | "transport" | "address" | "sizeBytes" | "blockSize"
> &
  Partial<Pick<DiskRow, "kernelName" | "driver" | "controllerName">>;

/** The row of a disk that was never seen before. */
export function newDiskRow(nodeId: string, disk: NewDisk, now: Date): DiskRow {
  return {
    kernelName: undefined,
    driver: undefined,
    controllerName: undefined,
    ...disk,
    id: diskId(disk),
    nodeId,
    admitted: false,
    admittedSerial: undefined,
    admittedEvidence: undefined,
    cordoned: false,
    wanted: "take",
    zeroRequestedTime: undefined,
    generation: 1n,
    traceparent: undefined,
    observedGeneration: 0n,
    state: "DISCOVERED",
    stateReason: "not admitted",
    originalDriver: undefined,
    lvsName: undefined,
    lvsUuid: undefined,
    freeSpace: "UNKNOWN",
    pendingOp: undefined,
    clusterBytes: undefined,
    totalClusters: undefined,
    freeClusters: undefined,
    evidence: [],
    evidenceFingerprint: fingerprint([]),
    lastError: undefined,
    attempt: 0,
    nextTryTime: undefined,
    lastSeenTime: now,
    promisedBytes: 0n,
    lvolCount: 0,
    revision: 0n,
    createTime: now,
    updateTime: now,
  };
}

/** Whether policy admits a disk without a hand: `auto`, on the list, and nothing speaks against it. */
export function admittedByPolicy(
  config: Pick<Config, "diskPolicy" | "diskAllow">,
  row: DiskRow,
  facts: {
    readonly evidence: readonly Evidence[] | undefined;
    readonly fabric: FabricDisk | undefined;
  },
): boolean {
  if (config.diskPolicy !== "auto" || row.admitted || row.wanted !== "take") return false;
  // An entry in the file names the disk by its serial; it is the list and the word of the operator.
  if (facts.fabric !== undefined) return facts.fabric.format;
  if (facts.evidence === undefined || !blank(facts.evidence)) return false;
  return isAllowed(config.diskAllow, row);
}
