// Which evidence forbids claiming a disk. Formatting has a stricter rule: it needs a claim that was
// made without any evidence (docs/architecture.md#r15-taking-a-disk).
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
 * The evidence that forbids claiming the disk, most specific first. `ours`: the disk is known to
 * hold our lvstore.
 */
export function refusing(evidence: readonly Evidence[], ours: boolean): readonly Evidence[] {
  const vague = ({ kind }: Evidence) => Number(VAGUE.includes(kind));
  return evidence
    .filter(({ kind }) => kind !== POLICY && !(ours && OWN.includes(kind)))
    .toSorted((a, b) => vague(a) - vague(b));
}

export function refusesTaking(evidence: readonly Evidence[], ours: boolean): boolean {
  return refusing(evidence, ours).length > 0;
}

/** Whether the evidence says something of the disk, and not only of the node that it is in. */
export function saysOfDisk({ kind }: Evidence): boolean {
  return !OF_NODE.includes(kind);
}

export function showsUse(evidence: readonly Evidence[]): boolean {
  return evidence.some(({ kind }) => IN_USE.includes(kind));
}
