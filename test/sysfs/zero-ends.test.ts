// What a wipe overwrites, in which order, and what it leaves when it is cut off.
import { describe, expect, it } from "vitest";
import type { WritableDevice } from "../../src/sysfs/kernel.ts";
import { partsToZero, zeroEnds } from "../../src/sysfs/zero-ends.ts";
import { WIPE_END_BYTES } from "../../src/limits.ts";

const MIB = 1024 * 1024;

/** A disk in memory that keeps the last of its writes back until they are synced. */
function disk(bytes: Buffer, { broken = -1n }: { readonly broken?: bigint } = {}) {
  const synced: string[] = [];
  const device: WritableDevice = {
    device: "/dev/one",
    dev: "259:0",
    read: async (at, length) => bytes.subarray(Number(at), Number(at) + length),
    write: async (at, data) => {
      synced.push(`${at}`);
      if (at !== broken) bytes.set(data, Number(at));
    },
    sync: async () => void synced.push("sync"),
    [Symbol.asyncDispose]: async () => {},
  };
  return { device, synced };
}

describe("zeroEnds", () => {
  it.each([512, 4096, 5000, MIB, 3 * MIB + 512, WIPE_END_BYTES, 2 * WIPE_END_BYTES])(
    "zeroes every byte of a disk of %i bytes",
    async (size) => {
      const bytes = Buffer.alloc(size, 7);
      const { device } = disk(bytes);
      expect(await zeroEnds(device, BigInt(size), () => true)).toBeUndefined();
      expect(bytes.every((byte) => byte === 0)).toBe(true);
    },
  );

  it("leaves what lies between the ends of a larger one", async () => {
    const size = 2 * WIPE_END_BYTES + 3 * MIB;
    const bytes = Buffer.alloc(size, 7);
    const { device } = disk(bytes);
    expect(await zeroEnds(device, BigInt(size), () => true)).toBeUndefined();
    const middle = bytes.subarray(WIPE_END_BYTES, size - WIPE_END_BYTES);
    expect(middle.every((byte) => byte === 7)).toBe(true);
    expect(bytes.subarray(0, WIPE_END_BYTES).every((byte) => byte === 0)).toBe(true);
    expect(bytes.subarray(size - WIPE_END_BYTES).every((byte) => byte === 0)).toBe(true);
  });

  it("writes the first block last, once all else is on the disk", async () => {
    const size = BigInt(2 * WIPE_END_BYTES + MIB);
    const { device, synced } = disk(Buffer.alloc(Number(size)));
    await zeroEnds(device, size, () => true);
    expect(synced.slice(-4)).toEqual(["4096", "sync", "0", "sync"]);
    const [tail = [], head = []] = partsToZero(size);
    // From back to front.
    for (const part of [tail, head]) {
      const offsets = part.map(({ at }) => at);
      expect(offsets).toEqual(offsets.toSorted((a, b) => Number(b - a)));
    }
  });

  it("writes nothing more once this agent may not, and says what does not read back", async () => {
    const bytes = Buffer.alloc(4 * MIB, 7);
    let left = 2;
    const stopped = await zeroEnds(disk(bytes).device, BigInt(bytes.length), () => left-- > 0);
    expect(stopped).toContain("may not change anything");
    expect(bytes.subarray(0, MIB).every((byte) => byte === 7)).toBe(true);
    const { device } = disk(bytes, { broken: BigInt(MIB) });
    expect(await zeroEnds(device, BigInt(bytes.length), () => true)).toContain(
      "do not read as zeros",
    );
  });
});
