// Overwrites with zeros what a disk is recognised by: its first and its last bytes, through a descriptor
// that nobody else can have meanwhile. What lies between stays (docs/architecture.md#wiping-a-disk).
//
// The order: the end before the beginning, each from back to front, the first block last and only once all
// else is on the disk. So a disk that is half done still shows what it was, as long as its first block
// does, and never shows anything that was not there before.
import type { WritableDevice } from "./kernel.ts";
import { WIPE_END_BYTES } from "../limits.ts";

export type Range = { readonly at: bigint; readonly length: number };

const CHUNK_BYTES = 1024 * 1024;
/** Has the MBR, the header of most file systems, and SPDK's super block. */
const FIRST_BLOCK_BYTES = 4096;

/** What is zeroed, in order; all of one part is on the disk before the next one is begun. */
export function partsToZero(sizeBytes: bigint): readonly (readonly Range[])[] {
  const end = BigInt(WIPE_END_BYTES);
  const head = sizeBytes < end ? sizeBytes : end;
  const tail = sizeBytes - end > head ? sizeBytes - end : head;
  const first = sizeBytes < BigInt(FIRST_BLOCK_BYTES) ? sizeBytes : BigInt(FIRST_BLOCK_BYTES);
  return [backwards(tail, sizeBytes), backwards(first, head), backwards(0n, first)];
}

/** From the last chunk to the first one. */
function backwards(from: bigint, end: bigint): readonly Range[] {
  const ranges: Range[] = [];
  for (let at = end; at > from;) {
    const next = at - BigInt(CHUNK_BYTES) > from ? at - BigInt(CHUNK_BYTES) : from;
    ranges.push({ at: next, length: Number(at - next) });
    at = next;
  }
  return ranges;
}

/**
 * Returns what went wrong, for people; undefined: all of it reads as zeros. mayWrite is asked before each
 * write.
 */
export async function zeroEnds(
  device: WritableDevice,
  sizeBytes: bigint,
  mayWrite: () => boolean,
): Promise<string | undefined> {
  const zeros = Buffer.alloc(CHUNK_BYTES);
  const parts = partsToZero(sizeBytes);
  for (const part of parts) {
    for (const { at, length } of part) {
      if (!mayWrite()) return "this agent may not change anything any more";
      await device.write(at, zeros.subarray(0, length));
    }
    await device.sync();
  }
  for (const { at, length } of parts.flat()) {
    const bytes = await device.read(at, length);
    if (!zeros.subarray(0, length).equals(bytes)) {
      return `${length} bytes at ${at} were zeroed and do not read as zeros`;
    }
  }
  return undefined;
}
