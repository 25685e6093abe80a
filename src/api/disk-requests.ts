// Parses the requests about the life of a disk: bad input is refused here with one violation for each field.
import type {
  AdmitDiskRequest,
  AdoptDiskRequest,
  ReleaseDiskRequest,
  ZeroFreeSpaceRequest,
} from "../gen/storagenode/v1/storage_node.ts";
import { Fields } from "./fields.ts";

export function zeroFreeSpace(message: ZeroFreeSpaceRequest): {
  readonly id: string;
  readonly waitMs: number;
} {
  const fields = new Fields();
  return fields.doneWith({
    id: fields.uuid("disk_id", message.diskId),
    waitMs: fields.waitMs("wait_timeout", message.waitTimeout),
  });
}

/** By id and serial, or by the address of a controller whose disks cannot be identified yet. */
export function admitDisk(message: AdmitDiskRequest): {
  readonly id: string;
  readonly address: string | undefined;
  readonly serial: string;
  readonly evidenceFingerprint: string | undefined;
  readonly discardZeroes: boolean;
  readonly waitMs: number;
} {
  const fields = new Fields();
  const address = fields.text("address", message.address) || undefined;
  if (address !== undefined && message.diskId !== "") {
    fields.violation("address", "must not be set with disk_id");
  }
  const isById = address === undefined;
  // What is there nobody has seen yet.
  if (!isById && message.evidenceFingerprint !== "") {
    fields.violation("evidence_fingerprint", "must not be set with address");
  }
  if (!isById && message.discardZeroes) {
    fields.violation("discard_zeroes", "must not be set with address");
  }
  return fields.doneWith({
    address,
    id: isById ? fields.uuid("disk_id", message.diskId) : "",
    serial: isById
      ? fields.requiredText("serial", message.serial)
      : fields.text("serial", message.serial),
    evidenceFingerprint:
      fields.text("evidence_fingerprint", message.evidenceFingerprint) || undefined,
    discardZeroes: message.discardZeroes,
    waitMs: fields.waitMs("wait_timeout", message.waitTimeout),
  });
}

export function releaseDisk(message: ReleaseDiskRequest): {
  readonly id: string;
  readonly serial: string;
  readonly force: boolean;
  readonly reason: string;
  readonly waitMs: number;
} {
  const fields = new Fields();
  const { force } = message;
  return fields.doneWith({
    id: fields.uuid("disk_id", message.diskId),
    serial: fields.requiredText("serial", message.serial),
    force,
    reason: force ? fields.reason("reason", message.reason) : fields.text("reason", message.reason),
    waitMs: fields.waitMs("wait_timeout", message.waitTimeout),
  });
}

export function adoptDisk(message: AdoptDiskRequest): {
  readonly id: string;
  readonly serial: string;
  /** Undefined: its contents are only listed. */
  readonly storeUuid: string | undefined;
  readonly waitMs: number;
} {
  const fields = new Fields();
  const { validateOnly } = message;
  return fields.doneWith({
    id: fields.uuid("disk_id", message.diskId),
    serial: fields.requiredText("serial", message.serial),
    storeUuid: validateOnly ? undefined : fields.uuid("store_uuid", message.storeUuid),
    waitMs: fields.waitMs("wait_timeout", message.waitTimeout),
  });
}
