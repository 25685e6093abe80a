// What speaks against taking a disk, as data. Gathering it is the sysfs adapter's work; what follows
// from it is the loops'. Nothing here may be read as permission: an empty list says only that nothing
// was found by whoever looked.
import { createHash } from "node:crypto";

export const EVIDENCE_KINDS = [
  /** The disk, a partition or what is stacked on them is mounted. */
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
  /** Something of the running system lies on it. */
  "BOOT_DISK",
  "NOT_ALLOWED",
  /** Another function of the IOMMU group has a kernel driver. */
  "IOMMU_GROUP_SHARED",
  "NO_IOMMU",
  /** It could not be looked at: never the same as empty. */
  "UNREADABLE",
  "DUPLICATE_SERIAL",
  "FOREIGN_STORE",
] as const;

export type EvidenceKind = (typeof EVIDENCE_KINDS)[number];

/**
 * One fact. Subjects and details name no kernel device, as those change with every boot: a namespace
 * is `serial/nsid`, a partition `serial/nsid` + `pN`, a function its PCI address.
 */
export type Evidence = {
  readonly kind: EvidenceKind;
  readonly subject: string;
  readonly detail: string;
};

/** Nothing at all speaks against the disk. */
export function blank(evidence: readonly Evidence[]): boolean {
  return evidence.length === 0;
}

/** Each fact once, in an order that does not depend on who looked where first. */
export function sortedEvidence(evidence: readonly Evidence[]): readonly Evidence[] {
  const byKey = new Map(evidence.map((item) => [keyOf(item), item]));
  return [...byKey].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([, item]) => item);
}

/** SHA-256 in hex over the facts, whatever their order: what an admission was given on. */
export function fingerprint(evidence: readonly Evidence[]): string {
  const keys = sortedEvidence(evidence).map(keyOf);
  return createHash("sha256").update(JSON.stringify(keys)).digest("hex");
}

function keyOf(item: Evidence): string {
  return JSON.stringify([item.kind, item.subject, item.detail]);
}
