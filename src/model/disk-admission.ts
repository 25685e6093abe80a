// Admission of a disk: the intent that it is taken, and its end. Pure, as admission.ts.
//
// An admission needs a look without evidence and is bound to the serial and to what was seen then
// (docs/architecture.md#rules): a disk that is put to use later is not formatted once it is free again.
import { evidenceText, ownSubjects, refusing, saysOfDisk } from "./disk-claim.ts";
import { hasDrive, type ControllerRow } from "./controller.ts";
import { diskOf, namedDisk, refuseAgainst, refuseUnseen } from "./disk-refusals.ts";
import type { DiskRow } from "./disk.ts";
import { Refusal } from "./errors.ts";
import { evidenceOf, fingerprint, type Evidence } from "./evidence.ts";
import { newIntent, type Intent } from "./intent.ts";
import { refuseWiping } from "./wipe.ts";

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

/** A function that is on vfio-pci is handed back to its kernel driver, and its disks are looked at. */
export type InspectController = {
  readonly kind: "inspectController";
  /** Who else has its vfio group open; undefined: nobody. */
  readonly groupUser: string | undefined;
  /** Of the only drive that is meant; undefined: whichever is there. */
  readonly serial: string | undefined;
};

export type DiskAdmissionState = {
  readonly now: Date;
  readonly revision: bigint;
  readonly disks: Map<string, DiskRow>;
  readonly controllers: Map<string, ControllerRow>;
};

export function admitDisk(state: DiskAdmissionState, mutation: Intent & AdmitDisk): DiskRow {
  const disk = namedDisk(state, mutation);
  refuseWiping(disk);
  const { discardZeroes = disk.discardZeroes } = mutation;
  // A FAILED disk is tried again: the caller has removed the cause of the failure.
  const isAdmitted = disk.admitted && disk.wanted === "take" && disk.state !== "FAILED";
  // That a store may be read does not mean that it may be formatted.
  const ours = ownSubjects([...state.disks.values()].filter(({ wanted }) => wanted !== "inspect"));
  const seen = isAdmitted ? disk.admittedEvidence : refuseEvidence(disk, mutation, ours);
  if (isAdmitted && discardZeroes === disk.discardZeroes) return disk;
  const admitted: DiskRow = {
    ...disk,
    ...newIntent(state, disk, mutation),
    admitted: true,
    admittedSerial: mutation.serial,
    admittedEvidence: seen,
    admissionEnded: undefined,
    wipeEnded: undefined,
    wanted: "take",
    discardZeroes,
  };
  state.disks.set(disk.id, admitted);
  for (const controller of state.controllers.values()) {
    if (hasDrive(controller, disk)) tryAgain(state, controller, mutation);
  }
  return admitted;
}

/** Changes nothing where the kernel shows what is there already. */
export function inspectController(
  state: DiskAdmissionState,
  mutation: Intent & InspectController,
): ControllerRow {
  const { id, groupUser, serial } = mutation;
  const controller = state.controllers.get(id);
  if (controller === undefined || controller.state === "MISSING") {
    throw new Refusal("NOT_FOUND", `no NVMe controller is at ${id} on this node`);
  }
  const { driver, state: is, originalDriver, inspectRequestedTime, inspectSerial } = controller;
  // What others of its group are used for would keep it from being handed back, and it from being attached.
  const isHeld = driver === "vfio-pci" && originalDriver !== undefined;
  if (is === "ATTACHED" || (isHeld && inspectRequestedTime === undefined)) {
    const how = is === "ATTACHED" ? "is attached in SPDK" : "was taken by this agent";
    throw new Refusal("IN_USE", `controller ${id} ${how}: name its disks by their ids`);
  }
  if (groupUser !== undefined) {
    const description = `VFIO_IN_USE: ${groupUser}`;
    throw new Refusal("HAS_EVIDENCE", `controller ${id}: ${description}`, {
      metadata: { evidence: "VFIO_IN_USE" },
      preconditions: [{ subject: `controllers/${id}`, description }],
    });
  }
  if (driver !== "vfio-pci" && driver !== "nvme") {
    const message = `controller ${id} has ${driver === undefined ? "no driver" : `driver ${driver}`}`;
    throw new Refusal("HAS_EVIDENCE", message, { metadata: { evidence: "NOT_READY" } });
  }
  if (driver === "nvme") refuseOtherSerial(controller, serial);
  if (inspectRequestedTime !== undefined && inspectSerial === serial) return controller;
  const asked = {
    ...controller,
    ...newIntent(state, controller, mutation),
    inspectRequestedTime: state.now,
    inspectSerial: serial,
    setback: undefined,
  };
  state.controllers.set(id, asked);
  return asked;
}

/** A drive that was read is not the one that a call has named. */
export function refuseOtherSerial(
  { id, serial }: Pick<ControllerRow, "id" | "serial">,
  named: string | undefined,
): void {
  if (serial === undefined || named === undefined || serial === named) return;
  throw new Refusal(
    "SERIAL_MISMATCH",
    `the drive at ${id} has serial number ${serial}, not ${named}`,
  );
}

/** The caller has removed the cause for which the controller was given back. */
function tryAgain(state: DiskAdmissionState, controller: ControllerRow, by: Intent): void {
  if (controller.setback === undefined) return;
  const again = { ...controller, ...newIntent(state, controller, by), setback: undefined };
  state.controllers.set(controller.id, { ...again, failures: {} });
}

export function endAdmission(state: DiskAdmissionState, mutation: Intent & EndAdmission): DiskRow {
  const disk = diskOf(state, mutation.id);
  if (!isChanged(disk, mutation.evidence)) return disk;
  const facts = evidenceOf(disk, mutation.evidence).map(evidenceText);
  const seen = facts.length === 0 ? "nothing is on it any more" : facts.join("; ");
  const ended: DiskRow = {
    ...disk,
    ...newIntent(state, disk, mutation),
    admitted: false,
    admittedSerial: undefined,
    admittedEvidence: undefined,
    wanted: disk.wanted === "inspect" ? "take" : disk.wanted,
    admissionEnded: `${state.now.toISOString()}: it changed after it was admitted: ${seen}`,
  };
  state.disks.set(disk.id, ended);
  return ended;
}

/** Whether the disk is not as it was when it was admitted. One with a store of ours needs no admission. */
export function isChanged(
  disk: Pick<
    DiskRow,
    "admitted" | "admittedEvidence" | "lvsUuid" | "adoptedStore" | "transport" | "serial" | "nsid"
  >,
  evidence: readonly Evidence[],
): boolean {
  if (!needsLook(disk) || !disk.admitted) return false;
  return fingerprint(evidenceOf(disk, evidence)) !== (disk.admittedEvidence ?? fingerprint([]));
}

/** Disks on a fabric cannot be looked at: their entry permits what is done with them. */
function needsLook({
  lvsUuid,
  adoptedStore,
  transport,
}: Pick<DiskRow, "lvsUuid" | "adoptedStore" | "transport">): boolean {
  return lvsUuid === undefined && adoptedStore === undefined && transport === "PCIe";
}

/** The fingerprint that the admission is bound to. Throws a Refusal that lists all evidence. */
function refuseEvidence(
  disk: DiskRow,
  { evidence, ...asked }: AdmitDisk,
  ours: ReadonlySet<string>,
): string | undefined {
  if (!needsLook(disk)) return asked.evidenceFingerprint;
  if (evidence === undefined) return refuseUnseen(disk);
  const seen = fingerprint(evidenceOf(disk, evidence));
  const { evidenceFingerprint: expected } = asked;
  if (expected !== undefined && expected !== seen) {
    const message = `evidence of disk ${disk.id} changed: its fingerprint is not ${expected} any more`;
    throw new Refusal("EVIDENCE_CHANGED", message);
  }
  refuseAgainst(disk, refusing(evidence, ours).filter(saysOfDisk));
  return seen;
}
