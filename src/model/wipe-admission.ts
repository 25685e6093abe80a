// Admission of WipeDisk: the intent that what is on a disk is destroyed. Pure, as admission.ts.
//
// It is bound to the serial and to the fingerprint of a look within the call, and never concerns a disk
// that anybody uses, or one with volumes (docs/architecture.md#wiping-a-disk).
import type { DiskAdmissionState } from "./disk-admission.ts";
import { namedDisk, refuseAgainst, refuseUnseen } from "./disk-refusals.ts";
import type { DiskRow } from "./disk.ts";
import { Refusal } from "./errors.ts";
import { evidenceOf, fingerprint, type Evidence } from "./evidence.ts";
import { newIntent, type Intent } from "./intent.ts";
import { againstWiping, type WipePlace } from "./wipe.ts";

export type WipeDisk = {
  readonly kind: "wipeDisk";
  readonly serial: string;
  readonly evidenceFingerprint: string;
  readonly reason: string;
  /** As seen within the call; undefined: nobody can look at it where it is. */
  readonly look: WipeLook | undefined;
};

/** What a look has found at a disk and at all that is taken together with it, and where it is. */
export type WipeLook = WipePlace & { readonly evidence: readonly Evidence[] };

/** Changes nothing on a disk that is blank already, or where the same wipe is under way. */
export function wipeDisk(
  state: Pick<DiskAdmissionState, "now" | "revision" | "disks">,
  mutation: Intent & WipeDisk,
): DiskRow {
  const { id, evidenceFingerprint, reason } = mutation;
  const disk = namedDisk(state, mutation);
  refuseFabric(disk);
  refuseOurs(disk);
  if (disk.wipe !== undefined && fingerprint(disk.wipe.evidence) === evidenceFingerprint)
    return disk;
  const evidence = evidenceOf(disk, refuseUse(disk, mutation.look));
  const known = disk.lvsUuid ?? disk.lvsName ?? disk.adoptedStore;
  if (evidence.length === 0 && known === undefined) return disk;
  if (fingerprint(evidence) !== evidenceFingerprint) {
    const message = `evidence of disk ${id} changed: its fingerprint is not ${evidenceFingerprint} any more`;
    throw new Refusal("EVIDENCE_CHANGED", message);
  }
  const asked: DiskRow = {
    ...disk,
    ...newIntent(state, disk, mutation),
    admitted: false,
    admittedSerial: undefined,
    admittedEvidence: undefined,
    wipe: { requestedTime: state.now, evidence, reason, begun: undefined },
    wipeEnded: undefined,
  };
  state.disks.set(id, asked);
  return asked;
}

function refuseFabric({ id, transport, address }: DiskRow): void {
  if (transport === "PCIe") return;
  const message =
    `disk ${id} is on a fabric (${transport} ${address}): no kernel driver of this node shows it, ` +
    `wipe it on the machine that it is in`;
  throw new Refusal("HAS_EVIDENCE", message, { metadata: { evidence: "NOT_READY" } });
}

/** A disk with a store of ours is let go first, which its volumes do not outlive. */
function refuseOurs(disk: DiskRow): void {
  const { id, lvolCount, snapshotCount, wanted } = disk;
  if (lvolCount + snapshotCount > 0) {
    const message =
      `${lvolCount} volumes and ${snapshotCount} snapshots are on disk ${id}: Delete them, and ` +
      `ReleaseDisk before it is wiped`;
    throw new Refusal("IN_USE", message);
  }
  const store = disk.lvsUuid ?? disk.adoptedStore;
  if (store === undefined || wanted === "release") return;
  throw new Refusal("IN_USE", `disk ${id} has lvstore ${store} of this node: ReleaseDisk first`);
}

/** The evidence, if it does not forbid to wipe the disk. */
function refuseUse(disk: DiskRow, look: WipeLook | undefined): readonly Evidence[] {
  if (look === undefined) return refuseUnseen(disk);
  const { evidence } = look;
  refuseAgainst(disk, againstWiping(disk, evidence, look));
  return evidence;
}
