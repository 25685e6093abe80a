// What other programs leave on a drive, as they write it: enough of each format to be recognised.
import type { Written } from "./drives.ts";

const SECTOR = 512;

/** A partition table (MBR) with one partition of type 0x83 (Linux). */
export function partitionTable(startBytes: bigint, sizeBytes: bigint): Written {
  const bytes = Buffer.alloc(SECTOR);
  const entry = 446;
  bytes.writeUInt8(0x83, entry + 4);
  bytes.writeUInt32LE(Number(startBytes / 512n), entry + 8);
  bytes.writeUInt32LE(Number(sizeBytes / 512n), entry + 12);
  bytes.writeUInt16LE(0xaa55, 510);
  return { at: 0, bytes };
}

/** The super block of a member of an md array, version 1.2: 4 KiB behind the start. */
export function mdMember(): Written {
  const bytes = Buffer.alloc(256);
  bytes.writeUInt32LE(0xa92b4efc, 0);
  bytes.writeUInt32LE(1, 4);
  bytes.fill(0x5a, 16, 32);
  bytes.write("node:0", 32, "latin1");
  return { at: 8 * SECTOR, bytes };
}

/** The label of a physical volume of LVM, in the second sector. */
export function lvmPhysicalVolume(): Written {
  const bytes = Buffer.alloc(SECTOR);
  bytes.write("LABELONE", 0, "latin1");
  bytes.writeBigUInt64LE(1n, 8);
  bytes.writeUInt32LE(32, 20);
  bytes.write("LVM2 001", 24, "latin1");
  bytes.write("0Vqm9cJ1hH2sX3dK4fG5aB6eC7iD8jE9", 32, "latin1");
  return { at: SECTOR, bytes };
}

/** The first header of LUKS version 2. */
export function luksHeader(): Written {
  const bytes = Buffer.alloc(4096);
  bytes.write("LUKS", 0, "latin1");
  bytes.writeUInt16BE(0xbabe, 4);
  bytes.writeUInt16BE(2, 6);
  bytes.writeBigUInt64BE(16_384n, 8);
  bytes.write("3f0c7a4e-5d3b-4a8e-9b52-1d6e0f2a7c91", 168, "latin1");
  return { at: 0, bytes };
}
