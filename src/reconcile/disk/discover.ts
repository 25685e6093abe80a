// The pure part of the loop `disk-discover`: which disks the kernel shows, the row of a new disk,
// and admission by policy.
//
// It never concludes that a disk is gone because /sys/block no longer lists it: a disk on vfio-pci
// or attached to the target is present. It never claims a disk.
import { type Config } from "../../config.ts";
import { isAllowed, type FabricDisk } from "../../config-disks.ts";
import type { DiskRow } from "../../model/disk.ts";
import { blank, type Evidence } from "../../model/evidence.ts";
import { diskId } from "../../model/identity.ts";
import type { InspectOptions } from "../../sysfs/disk-evidence.ts";
import type { NvmeNamespace, NvmeTopology } from "../../sysfs/nvme.ts";
import type { DiskInKernel } from "./view.ts";

/** The result of one kernel scan, by disk id. */
export type KernelFindings = {
  readonly disks: ReadonlyMap<string, DiskInKernel & { readonly namespace?: NvmeNamespace }>;
  /** Ids that two different disks have. */
  readonly duplicates: ReadonlySet<string>;
  /** Kernel names of disks without a serial number: they have no identity and are ignored. */
  readonly withoutSerial: readonly string[];
};

/**
 * The disks of a topology. A PCI function without namespaces is matched with a row by its address.
 */
export function findInKernel(topology: NvmeTopology, rows: Iterable<DiskRow>): KernelFindings {
  const disks = new Map<string, DiskInKernel & { readonly namespace?: NvmeNamespace }>();
  const duplicates = new Set<string>();
  const withoutSerial: string[] = [];
  const withoutNamespace = new Map<string, string | undefined>();
  for (const { pciAddress, driver, controllers } of topology.functions) {
    const namespaces = controllers.flatMap((controller) => controller.namespaces);
    if (namespaces.length === 0) withoutNamespace.set(pciAddress, driver);
    for (const namespace of namespaces) {
      const { serial, model, nsid, kernelName } = namespace;
      if (serial === "" || nsid < 1) {
        withoutSerial.push(kernelName);
        continue;
      }
      const id = diskId({ serial, model, nsid });
      const other = disks.get(id);
      // Two paths to one namespace have one block device; two disks have two.
      if (other !== undefined && other.kernelName !== kernelName) duplicates.add(id);
      disks.set(id, { address: pciAddress, driver, kernelName, evidence: undefined, namespace });
    }
  }
  for (const row of rows) {
    if (row.transport !== "PCIe" || disks.has(row.id) || !withoutNamespace.has(row.address))
      continue;
    const driver = withoutNamespace.get(row.address);
    disks.set(row.id, { address: row.address, driver, kernelName: undefined, evidence: undefined });
  }
  return { disks, duplicates, withoutSerial };
}

/**
 * Whether the policy `auto` admits a disk: it is on the allow list, and every look since the agent
 * started was blank, for as long as the settings say.
 */
export function admittedByPolicy(
  config: Pick<Config, "diskPolicy" | "diskAllow" | "diskSettleMs">,
  row: DiskRow,
  facts: {
    readonly evidence: readonly Evidence[] | undefined;
    /** For how long every look was blank; undefined: one was not. */
    readonly cleanForMs: number | undefined;
    readonly fabric: FabricDisk | undefined;
  },
): boolean {
  if (row.wanted !== "take") return false;
  if (row.admitted) return !assertedAs(row, facts.fabric);
  if (config.diskPolicy !== "auto") return false;
  // An entry of STORAGE_NODE_FABRIC_DISKS names the disk by serial: it takes the place of both.
  if (facts.fabric !== undefined) return facts.fabric.format;
  if (facts.evidence === undefined || !blank(facts.evidence)) return false;
  if (facts.cleanForMs === undefined || facts.cleanForMs < config.diskSettleMs) return false;
  return isAllowed(config.diskAllow, row);
}

/** Whether the row says of discards what the entry says, if that says anything. */
export function assertedAs(row: DiskRow, entry: FabricDisk | undefined): boolean {
  return entry?.discardZeroes === undefined || entry.discardZeroes === row.discardZeroes;
}

/** What evidence is gathered with: the allow list, where there is one. */
export function inspectOptions({
  diskAllow,
}: Pick<Config, "diskAllow">): InspectOptions | undefined {
  return diskAllow.length === 0 ? undefined : { allowed: (disk) => isAllowed(diskAllow, disk) };
}
