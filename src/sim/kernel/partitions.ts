// The kernel's partition scan, for MBR tables only: four primary entries in the first block.
import { open } from "node:fs/promises";
import { readFully } from "../../sysfs/kernel.ts";

export type Partition = {
  readonly number: number;
  readonly startBytes: bigint;
  readonly sizeBytes: bigint;
};

const TABLE_AT = 446;
const ENTRY_BYTES = 16;
const LINUX = 0x83;

/** Partitions of the disk image; `unit` is its block size in bytes. */
export async function scanPartitions(image: string, unit: number): Promise<readonly Partition[]> {
  await using handle = await open(image, "r");
  const sector = Buffer.from(await readFully(handle, 0n, 512));
  if (sector.length < 512 || sector.readUInt16BE(510) !== 0x55aa) return [];
  return [0, 1, 2, 3].flatMap((index) => {
    const at = TABLE_AT + index * ENTRY_BYTES;
    const start = BigInt(sector.readUInt32LE(at + 8)) * BigInt(unit);
    const size = BigInt(sector.readUInt32LE(at + 12)) * BigInt(unit);
    const used = sector.readUInt8(at + 4) !== 0 && size > 0n;
    return used ? [{ number: index + 1, startBytes: start, sizeBytes: size }] : [];
  });
}

/** The first 512 bytes of a disk with these partitions; `unit` is its block size in bytes. */
export function partitionTable(partitions: readonly Partition[], unit: number): Buffer {
  const sector = Buffer.alloc(512);
  for (const { number, startBytes, sizeBytes } of partitions) {
    const at = TABLE_AT + (number - 1) * ENTRY_BYTES;
    sector.writeUInt8(LINUX, at + 4);
    sector.writeUInt32LE(Number(startBytes / BigInt(unit)), at + 8);
    sector.writeUInt32LE(Number(sizeBytes / BigInt(unit)), at + 12);
  }
  sector.writeUInt16BE(0x55aa, 510);
  return sector;
}
