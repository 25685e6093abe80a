// Admission of a disk: the intent that it is taken, and its end. Pure, as admission.ts.
//
// An admission needs a look without evidence and is bound to the serial and to what was seen then
// (docs/architecture.md#rules): a disk that is put to use later is not formatted once it is free again.
import { refusing, saysOfDisk } from "./disk-claim.ts";
import type { DiskRow } from "./disk.ts";
import { Refusal } from "./errors.ts";
import { evidenceOf, fingerprint, type Evidence } from "./evidence.ts";
import { newIntent, type Intent } from "./intent.ts";

export type AdmitDisk = {
  readonly kind: "admitDisk";
  readonly serial: string;
  readonly evidenceFingerprint: string | undefined;
  /** As seen within the call; undefined: nobody can look at it where it is. */
  readonly evidence: readonly Evidence[] | undefined;
  /** Discarded blocks read as zeros, as the caller asserts; undefined: as before. */
  readonly discardZeroes: boolean | undefined;
};

/** The disk is not as it was when it was admitted. */
export type EndAdmission = {
  readonly kind: "endAdmission";
  /** What was seen. */
  readonly evidence: readonly Evidence[];
};

export type DiskAdmissionState = {
  readonly now: Date;
  readonly revision: bigint;
  readonly disks: Map<string, DiskRow>;
};

export function admitDisk(state: DiskAdmissionState, mutation: Intent & AdmitDisk): DiskRow {
  const disk = diskOf(state, mutation.id);
  if (disk.serial !== mutation.serial) {
    const message = `disk ${disk.id} has serial number ${disk.serial}, not ${mutation.serial}`;
    throw new Refusal("SERIAL_MISMATCH", message);
  }
  const { discardZeroes = disk.discardZeroes } = mutation;
  // A FAILED disk is tried again: the caller has removed the cause of the failure.
  const isAdmitted = disk.admitted && disk.wanted === "take" && disk.state !== "FAILED";
  const seen = isAdmitted ? disk.admittedEvidence : refuseEvidence(disk, mutation);
  if (isAdmitted && discardZeroes === disk.discardZeroes) return disk;
  const admitted: DiskRow = {
    ...disk,
    ...newIntent(state, disk, mutation),
    admitted: true,
    admittedSerial: mutation.serial,
    admittedEvidence: seen,
    admissionEnded: undefined,
    wanted: "take",
    discardZeroes,
  };
  state.disks.set(disk.id, admitted);
  return admitted;
}

export function endAdmission(state: DiskAdmissionState, mutation: Intent & EndAdmission): DiskRow {
  const disk = diskOf(state, mutation.id);
  if (!isChanged(disk, mutation.evidence)) return disk;
  const facts = evidenceOf(disk, mutation.evidence).map(textOf);
  const seen = facts.length === 0 ? "nothing is on it any more" : facts.join("; ");
  const ended: DiskRow = {
    ...disk,
    ...newIntent(state, disk, mutation),
    admitted: false,
    admittedSerial: undefined,
    admittedEvidence: undefined,
    admissionEnded: `${state.now.toISOString()}: it changed after it was admitted: ${seen}`,
  };
  state.disks.set(disk.id, ended);
  return ended;
}

/** Whether the disk is not as it was when it was admitted. One with a store of ours needs no admission. */
export function isChanged(
  disk: Pick<
    DiskRow,
    "admitted" | "admittedEvidence" | "lvsUuid" | "transport" | "serial" | "nsid"
  >,
  evidence: readonly Evidence[],
): boolean {
  if (!needsLook(disk) || !disk.admitted) return false;
  return fingerprint(evidenceOf(disk, evidence)) !== (disk.admittedEvidence ?? fingerprint([]));
}

/** Disks on a fabric cannot be looked at: their entry permits what is done with them. */
function needsLook({ lvsUuid, transport }: Pick<DiskRow, "lvsUuid" | "transport">): boolean {
  return lvsUuid === undefined && transport === "PCIe";
}

/** The fingerprint that the admission is bound to. Throws a Refusal that lists all evidence. */
function refuseEvidence(disk: DiskRow, { evidence, ...asked }: AdmitDisk): string | undefined {
  if (!needsLook(disk)) return asked.evidenceFingerprint;
  if (evidence === undefined) {
    const message =
      `disk ${disk.id} cannot be looked at where it is (${disk.address}, driver ` +
      `${disk.driver ?? "none"}), so nobody knows what is on it`;
    throw new Refusal("HAS_EVIDENCE", message, { metadata: { evidence: "NOT_READY" } });
  }
  const seen = fingerprint(evidenceOf(disk, evidence));
  const { evidenceFingerprint: expected } = asked;
  if (expected !== undefined && expected !== seen) {
    const message = `evidence of disk ${disk.id} changed: its fingerprint is not ${expected} any more`;
    throw new Refusal("EVIDENCE_CHANGED", message);
  }
  const against = refusing(evidence, false).filter(saysOfDisk);
  if (against.length === 0) return seen;
  const subject = `disks/${disk.id}`;
  throw new Refusal("HAS_EVIDENCE", `disk ${disk.id}: ${against.map(textOf).join("; ")}`, {
    metadata: { evidence: against.map(({ kind }) => kind).join(",") },
    preconditions: against.map((item) => ({ subject, description: textOf(item) })),
  });
}

function textOf({ kind, subject, detail }: Evidence): string {
  return `${kind} ${subject} ${detail}`.trimEnd();
}

function diskOf({ disks }: DiskAdmissionState, id: string): DiskRow {
  const disk = disks.get(id);
  if (disk === undefined) throw new Refusal("NOT_FOUND", `disk ${id} is not on this node`);
  return disk;
}
