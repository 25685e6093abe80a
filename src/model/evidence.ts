// Evidence against claiming a disk, as data. The sysfs adapter gathers it; the reconcile loops
// decide on it. It is never a permission: an empty list only says that the inspection found
// nothing.
import { createHash } from "node:crypto";

export const EVIDENCE_KINDS = [
  /** The disk, a partition or a device stacked on them is mounted. */
  "MOUNTED",
  "SWAP",
  /** Device mapper, md or a second controller of the same namespace. */
  "HOLDER",
  "PARTITION_TABLE",
  /** A known file system, volume manager, RAID or encryption header. */
  "SIGNATURE",
  "SPDK_BLOBSTORE",
  /** The first or the last MiB is not all zeros. */
  "NONZERO_DATA",
  "EXCLUSIVE_OPEN_REFUSED",
  /** A file system of the running system is mounted from it. */
  "BOOT_DISK",
  "NOT_ALLOWED",
  /** Another function of the IOMMU group has a kernel driver. */
  "IOMMU_GROUP_SHARED",
  "NO_IOMMU",
  /** The disk could not be inspected: never treated as empty. */
  "UNREADABLE",
  "DUPLICATE_SERIAL",
  "FOREIGN_STORE",
] as const;

export type EvidenceKind = (typeof EVIDENCE_KINDS)[number];

/**
 * One fact. Subject and detail contain no kernel device names, which may change at every boot: a
 * namespace is `serial/nsid`, a partition `serial/nsid` + `pN`, a PCI function its address.
 */
export type Evidence = {
  readonly kind: EvidenceKind;
  readonly subject: string;
  readonly detail: string;
};

/** Whether there is no evidence against the disk. */
export function blank(evidence: readonly Evidence[]): boolean {
  return evidence.length === 0;
}

/** The facts without duplicates, in an order that does not depend on the order of inspection. */
export function sortedEvidence(evidence: readonly Evidence[]): readonly Evidence[] {
  const byKey = new Map(evidence.map((item) => [keyOf(item), item]));
  return [...byKey].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([, item]) => item);
}

/** SHA-256 of the facts in hex, whatever their order. AdmitDisk is bound to it if it names it. */
export function fingerprint(evidence: readonly Evidence[]): string {
  const keys = sortedEvidence(evidence).map(keyOf);
  return createHash("sha256").update(JSON.stringify(keys)).digest("hex");
}

function keyOf(item: Evidence): string {
  return JSON.stringify([item.kind, item.subject, item.detail]);
}
