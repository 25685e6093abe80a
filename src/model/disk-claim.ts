// Which evidence forbids claiming a disk. Formatting has a stricter rule: it needs a claim that was
// made without any evidence (docs/architecture.md#r15-taking-a-disk).
import { isInspecting, type DiskRow } from "./disk.ts";
import type { Evidence, EvidenceKind } from "./evidence.ts";

/** Evidence that our own lvstore leaves on a disk: expected if the disk's row names an lvstore. */
const OWN: readonly EvidenceKind[] = ["SPDK_BLOBSTORE", "NONZERO_DATA"];

/** Faults of the node or the slot: they forbid a claim, and make no disk a foreign one. */
const OF_NODE: readonly EvidenceKind[] = ["NO_IOMMU", "NOT_READY"];

/** Only prevents automatic admission by the allow list; an explicit AdmitDisk overrides it. */
const POLICY: EvidenceKind = "NOT_ALLOWED";

/** Evidence that the disk is in use now, as opposed to data that was left on it. */
const IN_USE: readonly EvidenceKind[] = [
  "MOUNTED",
  "SWAP",
  "HOLDER",
  "EXCLUSIVE_OPEN_REFUSED",
  "BOOT_DISK",
];

/** Evidence that often accompanies a more specific kind; sorted behind it. */
const VAGUE: readonly EvidenceKind[] = ["EXCLUSIVE_OPEN_REFUSED", "NONZERO_DATA"];

/**
 * The evidence that forbids claiming a disk, or what is taken with it, most specific first. ours: subjects
 * that are known to hold our lvstores.
 */
export function refusing(
  evidence: readonly Evidence[],
  ours: ReadonlySet<string>,
): readonly Evidence[] {
  const vague = ({ kind }: Evidence) => Number(VAGUE.includes(kind));
  return evidence
    .filter(({ kind, subject }) => kind !== POLICY && !(ours.has(subject) && OWN.includes(kind)))
    .toSorted((a, b) => vague(a) - vague(b));
}

type OfStore = Pick<
  DiskRow,
  | "serial"
  | "nsid"
  | "lvsUuid"
  | "adoptedStore"
  | "wanted"
  | "admitted"
  | "generation"
  | "observedGeneration"
>;

/** The subjects of evidence that are disks with a store of this node, or with one that is to be read. */
export function ownSubjects(disks: Iterable<OfStore>): ReadonlySet<string> {
  const own = [...disks].filter(
    (disk) => disk.lvsUuid !== undefined || disk.adoptedStore !== undefined || isInspecting(disk),
  );
  return new Set(own.map(({ serial, nsid }) => `${serial}/${nsid}`));
}

/** Whether the evidence says something of the disk, and not only of the node that it is in. */
export function saysOfDisk({ kind }: Evidence): boolean {
  return !OF_NODE.includes(kind);
}

/** Whether somebody uses the disk, or a part of it. */
export function isUse({ kind }: Evidence): boolean {
  return IN_USE.includes(kind);
}

export function showsUse(evidence: readonly Evidence[]): boolean {
  return evidence.some(isUse);
}

export function evidenceText({ kind, subject, detail }: Evidence): string {
  return `${kind} ${subject} ${detail}`.trimEnd();
}
