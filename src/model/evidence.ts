// Evidence against claiming a disk, as data. The sysfs adapter gathers it; the reconcile loops
// decide on it. It is never a permission: an empty list only says that the inspection found
// nothing.
import { createHash } from "node:crypto";

/**
 * - disk: of what is on the disk and who uses it. Its fingerprint is of these.
 * - place: of its driver, its slot or the allow list, which change without anybody touching the disk.
 */
type Origin = "disk" | "place";

const ORIGINS = {
  /** The disk, a partition or a device stacked on them is mounted. */
  MOUNTED: "disk",
  SWAP: "disk",
  /** Device mapper, md or a second controller of the same namespace. */
  HOLDER: "disk",
  PARTITION_TABLE: "disk",
  /** A known file system, volume manager, RAID or encryption header. */
  SIGNATURE: "disk",
  SPDK_BLOBSTORE: "disk",
  /** The first or the last MiB is not all zeros. */
  NONZERO_DATA: "disk",
  /** Found by a claim only: looks open nothing exclusively. */
  EXCLUSIVE_OPEN_REFUSED: "disk",
  /** A file system of the running system is mounted from it. */
  BOOT_DISK: "disk",
  NOT_ALLOWED: "place",
  /** Another function of the IOMMU group has a driver, and is not taken with it. */
  IOMMU_GROUP_SHARED: "place",
  NO_IOMMU: "place",
  /** Somebody has said which driver is to have it. */
  DRIVER_OVERRIDE: "place",
  /** A process has its vfio group open, or it is not known that none has. */
  VFIO_IN_USE: "place",
  /** No driver that shows the disk, or a controller that is not live. */
  NOT_READY: "place",
  /** The disk could not be inspected: never treated as empty. */
  UNREADABLE: "disk",
  DUPLICATE_SERIAL: "place",
  FOREIGN_STORE: "disk",
} as const satisfies Record<string, Origin>;

export type EvidenceKind = keyof typeof ORIGINS;

export const EVIDENCE_KINDS: readonly EvidenceKind[] = Object.keys(ORIGINS).filter(
  (kind): kind is EvidenceKind => kind in ORIGINS,
);

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
  const byKey = new Map(evidence.map((item) => [factOf(item), item]));
  return [...byKey].toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([, item]) => item);
}

/**
 * The evidence that is of one disk, among that of its closure: what its fingerprint is of. What comes
 * from its driver, its slot or its siblings is not.
 */
export function evidenceOf(
  { serial, nsid }: { readonly serial: string; readonly nsid: number },
  evidence: readonly Evidence[],
): readonly Evidence[] {
  const subject = `${serial}/${nsid}`;
  const isIts = (text: string) => text === subject || /^p\d+$/.test(text.slice(subject.length));
  return evidence.filter(
    (item) =>
      ORIGINS[item.kind] === "disk" && item.subject.startsWith(subject) && isIts(item.subject),
  );
}

/** SHA-256 of the facts in hex, whatever their order. An admission is bound to it. */
export function fingerprint(evidence: readonly Evidence[]): string {
  const keys = sortedEvidence(evidence).map(factOf);
  return createHash("sha256").update(JSON.stringify(keys)).digest("hex");
}

/** Equal for equal facts. */
export function factOf(item: Evidence): string {
  return JSON.stringify([item.kind, item.subject, item.detail]);
}
