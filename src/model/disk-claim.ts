// Which evidence forbids taking a disk. Formatting is a matter of its own: it needs a claim whose
// evidence was blank (DESIGN section 5).
import type { Evidence, EvidenceKind } from "./evidence.ts";

/** What a store of ours leaves on a disk: expected where its row says that one lies there. */
const OWN: readonly EvidenceKind[] = ["SPDK_BLOBSTORE", "NONZERO_DATA"];

/** The allow list decides what is admitted without a hand; an explicit admission overrules it. */
const POLICY: EvidenceKind = "NOT_ALLOWED";

/** Somebody uses the disk now, as opposed to having left something on it. */
const IN_USE: readonly EvidenceKind[] = [
  "MOUNTED",
  "SWAP",
  "HOLDER",
  "EXCLUSIVE_OPEN_REFUSED",
  "BOOT_DISK",
];

/** True of much that the other kinds name more exactly. */
const VAGUE: readonly EvidenceKind[] = ["EXCLUSIVE_OPEN_REFUSED", "NONZERO_DATA"];

/**
 * The evidence that forbids taking it, what says most first; `ours`: a store of ours is known to lie
 * on the disk.
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

export function showsUse(evidence: readonly Evidence[]): boolean {
  return evidence.some(({ kind }) => IN_USE.includes(kind));
}
