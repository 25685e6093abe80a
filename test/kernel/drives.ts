// The emulated NVMe drives of a machine.
import { open } from "node:fs/promises";
import { join } from "node:path";

const MIB = 1024n * 1024n;
/** As QEMU's controllers call themselves. */
const MODEL = "QEMU NVMe Ctrl";
/** Blocks of every namespace that does not say otherwise. */
const BLOCK_BYTES = 512;

export type EmulatedNamespace = {
  readonly sizeBytes: bigint;
  readonly blockSizeBytes?: 512 | 4096;
};

export type EmulatedDrive = {
  readonly serial: string;
  /** Slot, and function for slots with several: "4" or "8.1". Functions of a slot share an IOMMU group. */
  readonly slot: string;
  /** The first of several functions of its slot. */
  readonly multifunction?: boolean;
  /** The next function of its slot is no drive, and has a driver. */
  readonly neighbour?: boolean;
  readonly namespaces: readonly EmulatedNamespace[];
  /** One primary partition of an MBR on the first namespace. */
  readonly partition?: { readonly startBytes: bigint; readonly sizeBytes: bigint };
};

/** A blank drive with one namespace. */
export function blank(serial: string, slot: string, sizeBytes = 512n * MIB): EmulatedDrive {
  return { serial, slot, namespaces: [{ sizeBytes }] };
}

/** A drive with a partition over most of it. */
export function partitioned(serial: string, slot: string): EmulatedDrive {
  const partition = { startBytes: MIB, sizeBytes: 48n * MIB };
  return { ...blank(serial, slot, 64n * MIB), partition };
}

export function addressOf({ slot }: EmulatedDrive): string {
  const [device = "", pciFunction = "0"] = slot.split(".");
  return `0000:00:${Number(device).toString(16).padStart(2, "0")}.${pciFunction}`;
}

/** Makes the drives' images in the folder; returns QEMU's arguments. */
export async function driveArguments(
  folder: string,
  drives: readonly EmulatedDrive[],
): Promise<readonly string[]> {
  const all = await Promise.all(drives.map(async (drive) => await oneDrive(folder, drive)));
  return all.flat();
}

async function oneDrive(folder: string, drive: EmulatedDrive): Promise<readonly string[]> {
  const { serial, multifunction, neighbour } = drive;
  const [device = "", pciFunction = "0"] = drive.slot.split(".");
  const slot = `addr=${Number(device).toString(16)}.${pciFunction}`;
  const isFirst = multifunction === true || neighbour === true;
  const options = isFirst ? [slot, "multifunction=on"] : [slot];
  const args = ["-device", ["nvme", `id=${serial}`, `serial=${serial}`, ...options].join(",")];
  if (neighbour === true) {
    args.push("-device", `virtio-rng-pci,addr=${Number(device).toString(16)}.1`);
  }
  for (const [index, namespace] of drive.namespaces.entries()) {
    const nsid = index + 1;
    const image = join(folder, `${serial}.${nsid}.img`);
    await makeImage(image, namespace.sizeBytes, nsid === 1 ? drive.partition : undefined);
    const id = `${serial}-${nsid}`;
    const blocks = `logical_block_size=${blockBytes(namespace)},physical_block_size=${blockBytes(namespace)}`;
    args.push("-drive", `if=none,id=${id},file=${image},format=raw,cache=unsafe,discard=unmap`);
    args.push("-device", `nvme-ns,bus=${serial},drive=${id},nsid=${nsid},${blocks}`);
  }
  return args;
}

async function makeImage(
  path: string,
  sizeBytes: bigint,
  partition: EmulatedDrive["partition"],
): Promise<void> {
  await using file = await open(path, "w");
  await file.truncate(Number(sizeBytes));
  if (partition !== undefined) await file.write(masterBootRecord(partition), 0, 512, 0);
}

/** A partition table with one partition of type 0x83 (Linux). */
function masterBootRecord({
  startBytes,
  sizeBytes,
}: NonNullable<EmulatedDrive["partition"]>): Buffer {
  const sector = Buffer.alloc(512);
  const entry = 446;
  sector.writeUInt8(0x83, entry + 4);
  sector.writeUInt32LE(Number(startBytes / 512n), entry + 8);
  sector.writeUInt32LE(Number(sizeBytes / 512n), entry + 12);
  sector.writeUInt16LE(0xaa55, 510);
  return sector;
}

function blockBytes({ blockSizeBytes }: EmulatedNamespace): number {
  return blockSizeBytes ?? BLOCK_BYTES;
}

/** The drives as `sim --disks` has them: the simulated target shows what the kernel shows. */
export function simulatedDisks(drives: readonly EmulatedDrive[]): readonly object[] {
  return drives.flatMap((drive) =>
    drive.namespaces.map((namespace, index) => ({
      serial: drive.serial,
      model: MODEL,
      nsid: index + 1,
      block_size: blockBytes(namespace),
      num_blocks: Number(namespace.sizeBytes) / blockBytes(namespace),
      traddr: addressOf(drive),
    })),
  );
}
