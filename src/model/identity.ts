// Names carry identity (docs/architecture.md#r4-names-carry-identity): the name of every object
// that the agent creates on a target identifies its fleet, disk or volume. All names are computed
// from ids; no state is kept here.
import { createHash } from "node:crypto";

/** UUID namespace of disk ids. It must never change: every disk would get another id. */
const DISK_NAMESPACE = "6a5e4d2c-0a57-5d1e-9f31-6f1c6f0d9b11";

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** A UUID as this service writes it: lower case, with dashes, not all zeros. */
export function isUuid(text: string): boolean {
  return UUID.test(text) && text !== "00000000-0000-0000-0000-000000000000";
}

/** RFC 9562 version 5 (SHA-1) UUID of a name within a namespace. */
export function uuidV5(namespace: string, name: string): string {
  const hash = createHash("sha1")
    .update(Buffer.from(namespace.replaceAll("-", ""), "hex"))
    .update(name)
    .digest();
  hash.writeUInt8((hash.readUInt8(6) & 0x0f) | 0x50, 6);
  hash.writeUInt8((hash.readUInt8(8) & 0x3f) | 0x80, 8);
  const hex = hash.toString("hex");
  return [
    hex.slice(0, 8),
    hex.slice(8, 12),
    hex.slice(12, 16),
    hex.slice(16, 20),
    hex.slice(20, 32),
  ].join("-");
}

/** What identifies a disk, independently of its slot and of its kernel device name. */
export type DiskIdentity = {
  readonly serial: string;
  readonly model: string;
  readonly nsid: number;
};

export function diskId(disk: DiskIdentity): string {
  return uuidV5(DISK_NAMESPACE, JSON.stringify([disk.serial, disk.model, disk.nsid]));
}

/** Hash of a fleet's name as used in lvstore names and owner marks: 8 hex digits. */
export function fleetHash(fleet: string): string {
  let hash = hashes.get(fleet);
  if (hash === undefined) {
    hash = createHash("sha256").update(fleet).digest("hex").slice(0, 8);
    hashes.set(fleet, hash);
  }
  return hash;
}

/** Each look at a disk needs that of the one fleet of this process. */
const hashes = new Map<string, string>();

export function storeName(fleet: string, disk: string): string {
  return `sn-${fleetHash(fleet)}-${disk}`;
}

/** Fleet hash and disk id of a name made by `storeName`; undefined for any other name. */
export function parseStoreName(name: string): { fleet: string; diskId: string } | undefined {
  const match = /^sn-([0-9a-f]{8})-([0-9a-f-]{36})$/.exec(name);
  const fleet = match?.[1];
  const diskId = match?.[2];
  if (fleet === undefined || diskId === undefined || !isUuid(diskId)) return undefined;
  return { fleet, diskId };
}

const ZEROING_SLICE = "zero-free-space";

/**
 * Name of an lvol over free clusters that are to be zeroed. No volume has such a name: lvols of volumes
 * are named by volume id.
 */
export function zeroingSlice(index: number): string {
  return `${ZEROING_SLICE}-${index}`;
}

/** The index of a name made by `zeroingSlice`; of one that an older agent made, -1; else undefined. */
export function zeroingSliceIndex(name: string): number | undefined {
  if (name === ZEROING_SLICE) return -1;
  const index = new RegExp(`^${ZEROING_SLICE}-(\\d{1,9})$`).exec(name)?.[1];
  return index === undefined ? undefined : Number(index);
}

/** Name of an lvol that holds zeroed clusters for a moment, and is not cleared when it is deleted. */
export function zeroingFiller(index: number): string {
  return `${ZEROING_SLICE}-filler-${index}`;
}

/** As zeroingSliceIndex, of a name made by `zeroingFiller`. */
export function zeroingFillerIndex(name: string): number | undefined {
  const index = new RegExp(`^${ZEROING_SLICE}-filler-(\\d{1,9})$`).exec(name)?.[1];
  return index === undefined ? undefined : Number(index);
}

/** Whether an lvol is there because free space is being zeroed. */
export function isOfZeroing(name: string): boolean {
  return zeroingSliceIndex(name) !== undefined || zeroingFillerIndex(name) !== undefined;
}

/** Name of a disk's NVMe controller on the target: a hash of the disk's transport address. */
export function controllerName(at: {
  readonly traddr: string;
  readonly trsvcid?: string;
  readonly subnqn?: string;
}): string {
  const place = JSON.stringify([at.traddr, at.trsvcid ?? "", at.subnqn ?? ""]);
  return `sn-${createHash("sha256").update(place).digest("hex").slice(0, 12)}`;
}

export function volumeNqn(prefix: string, volumeId: string): string {
  return `${prefix}:${volumeId}`;
}

/**
 * NVMe serial number of a new volume's export: 20 hexadecimal digits of a hash over the whole id, as ids
 * that differ in their last digits only are common. Kept in the row: existing volumes keep theirs.
 */
export function exportSerial(volumeId: string): string {
  return createHash("sha256").update(volumeId).digest("hex").slice(0, 20);
}

/**
 * A UUID without dashes. It is sliced, which is fast: every plan and every GetExport calls this.
 */
function digitsOf(uuid: string): string {
  const tail = uuid.slice(19, 23) + uuid.slice(24);
  return uuid.slice(0, 8) + uuid.slice(9, 13) + uuid.slice(14, 18) + tail;
}

/** NGUID of an export's namespace: the volume id, 32 upper-case hex digits as SPDK prints it. */
export function exportNguid(volumeId: string): string {
  return digitsOf(volumeId).toUpperCase();
}

export const EXPORT_MODEL = "storage-node lvol";

/**
 * Owner and incarnation of a target, kept in the NQN of a marker subsystem
 * (docs/architecture.md#r3-target-and-incarnation).
 */
export type OwnerMark = {
  readonly fleet: string;
  readonly node: string;
  readonly incarnation: string;
};

export function ownerNqn(prefix: string, mark: OwnerMark): string {
  return `${prefix}:owner:${fleetHash(mark.fleet)}:${mark.node}:${mark.incarnation}`;
}

/** The mark in an NQN, its fleet as hash; undefined if the NQN is no mark with this prefix. */
export function parseOwnerNqn(prefix: string, nqn: string): OwnerMark | undefined {
  if (!nqn.startsWith(`${prefix}:owner:`)) return undefined;
  const [fleet, node, incarnation, ...rest] = nqn.slice(`${prefix}:owner:`.length).split(":");
  if (fleet === undefined || node === undefined || incarnation === undefined || rest.length > 0) {
    return undefined;
  }
  return { fleet, node, incarnation };
}
