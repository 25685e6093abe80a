// From which share of free clusters on a disk is low on space, and when its row is written.
import { describe, expect, it } from "vitest";
import {
  diskSpace,
  isWorthRecording,
  recordedLevel,
  spaceConditions,
  type RecordedSpaceLevel,
  type SpaceThresholds,
} from "../../src/model/space.ts";
import { diskRow, SPACE_THRESHOLDS } from "../support/model.ts";

function levelOf(
  freeClusters: bigint,
  spaceLevel: RecordedSpaceLevel = "OK",
  thresholds: SpaceThresholds = SPACE_THRESHOLDS,
) {
  const row = diskRow({ totalClusters: 1_000n, freeClusters, spaceLevel });
  return diskSpace(row, undefined, thresholds)?.level;
}

describe("the level of a disk's space", () => {
  it("begins below its threshold", () => {
    const free = [1_000n, 200n, 199n, 100n, 99n, 1n, 0n];
    const levels = ["OK", "OK", "LOW", "LOW", "CRITICAL", "CRITICAL", "FULL"];
    expect(free.map((clusters) => levelOf(clusters))).toEqual(levels);
  });

  it("ends two percent above it", () => {
    expect([levelOf(200n, "LOW"), levelOf(219n, "LOW"), levelOf(220n, "LOW")]).toEqual([
      "LOW",
      "LOW",
      "OK",
    ]);
    const critical = [100n, 119n, 120n, 219n, 220n].map((free) => levelOf(free, "CRITICAL"));
    expect(critical).toEqual(["CRITICAL", "CRITICAL", "LOW", "LOW", "OK"]);
  });

  it("counts what zeroing holds as free, as it comes back, but a disk is full while nothing else is", () => {
    const row = diskRow({ totalClusters: 1_000n, clusterBytes: 1n });
    const spaceOf = (freeClusters: bigint, heldClusters: bigint) => {
      const observed = { clusterBytes: 1n, totalClusters: 1_000n, freeClusters };
      return diskSpace(row, observed, SPACE_THRESHOLDS, heldClusters);
    };
    const levels = [spaceOf(50n, 150n), spaceOf(50n, 149n), spaceOf(50n, 49n), spaceOf(0n, 900n)];
    expect(levels.map((space) => space?.level)).toEqual(["OK", "LOW", "CRITICAL", "FULL"]);
    const held =
      /^0 bytes of 1000 bytes \(0 %\) are free, and 900 bytes more once they are zeroed;/;
    expect(spaceConditions(levels[3])[0]?.message).toMatch(held);
  });

  it("is never low where a threshold of 0 says so, but a full disk is full", () => {
    const never = { ...SPACE_THRESHOLDS, lowPercent: 0, criticalPercent: 0 };
    expect([levelOf(1n, "OK", never), levelOf(1n, "CRITICAL", never)]).toEqual(["OK", "OK"]);
    expect(levelOf(0n, "OK", never)).toBe("FULL");
  });

  it("follows what was observed rather than what was recorded", () => {
    const row = diskRow({ totalClusters: 100n, freeClusters: 100n });
    const observed = { clusterBytes: 1n, totalClusters: 100n, freeClusters: 5n };
    const space = diskSpace(row, observed, SPACE_THRESHOLDS);
    expect(space).toEqual({ ...observed, heldClusters: 0n, level: "CRITICAL" });
    expect(spaceConditions(space)).toMatchObject([{ type: "SpaceLow", reason: "Critical" }]);
  });

  it("is not known of a disk without an lvstore", () => {
    const row = diskRow({ totalClusters: undefined, freeClusters: undefined });
    expect(diskSpace(row, undefined, SPACE_THRESHOLDS)).toBeUndefined();
    expect(spaceConditions(undefined)).toEqual([]);
  });

  it("is recorded as CRITICAL while the disk is full", () => {
    expect(recordedLevel({ level: "FULL" })).toBe("CRITICAL");
  });
});

describe("free clusters in a disk's row", () => {
  const worth = (recorded: bigint | undefined, freeClusters: bigint) =>
    isWorthRecording(recorded, { freeClusters, totalClusters: 1_000n }, SPACE_THRESHOLDS);

  it("are written once they are off by one percent of the disk, either way", () => {
    expect([worth(500n, 491n), worth(500n, 490n)]).toEqual([false, true]);
    expect([worth(500n, 509n), worth(500n, 510n)]).toEqual([false, true]);
    expect(worth(500n, 500n)).toBe(false);
  });

  it("are written when they become or cease to be none, and the first time", () => {
    expect([worth(1n, 0n), worth(0n, 1n), worth(0n, 0n)]).toEqual([true, true, false]);
    expect(worth(undefined, 1_000n)).toBe(true);
  });
});
