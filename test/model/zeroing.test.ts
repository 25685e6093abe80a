import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { restSizes, sliceSizes } from "../../src/model/zeroing.ts";

const MIB = 1_048_576n;
const GIB = 1_024n * MIB;
const LIMITS = {
  sliceBytes: Number(GIB),
  slices: 256,
  reserveBytes: Number(GIB),
  firstSlices: 8,
};

describe("the slices in which free space is zeroed", () => {
  it("leave the reserve, at most half, and are few", () => {
    const clusters = fc.bigInt({ min: 0n, max: 2n ** 22n });
    const sizes = fc.constantFrom(4n * MIB, 16n * MIB, 64n * MIB);
    fc.assert(
      fc.property(clusters, sizes, (free, clusterBytes) => {
        const slices = sliceSizes(free, clusterBytes, LIMITS);
        const left = free - slices.reduce((sum, size) => sum + size, 0n);
        expect(left).toBe(free / 2n < GIB / clusterBytes ? free / 2n : GIB / clusterBytes);
        expect(slices.every((size) => size > 0n)).toBe(true);
        expect(slices.length).toBeLessThan(256 + 8 + 24);
      }),
    );
  });

  it("take all that is left, but for what hosts take meanwhile", () => {
    expect(restSizes(0n, 8)).toEqual([]);
    expect(restSizes(3n, 8)).toEqual([1n, 1n, 1n]);
    expect(restSizes(100n, 3)).toEqual([97n, 1n, 1n, 1n]);
  });

  it("begin with half the reserve and single clusters, and grow, so that hosts get clusters early", () => {
    const slices = sliceSizes(1_000_000n, 4n * MIB, LIMITS);
    expect(slices.slice(0, 12)).toEqual([128n, 1n, 1n, 1n, 1n, 1n, 1n, 1n, 1n, 4n, 16n, 64n]);
    expect(slices.at(-2)).toBe(3_905n);
  });
});
