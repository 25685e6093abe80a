import { describe, expect, it } from "vitest";
import { beganAnew, ticksToNs, type IoReading } from "../../src/model/iostat.ts";

const NONE = { bytes: 0n, operations: 0n, latencyNs: 0n };

function reading(change: Partial<IoReading> = {}): IoReading {
  return {
    lvolId: "v",
    diskId: "d",
    bdevName: "u",
    read: { bytes: 8_192n, operations: 2n, latencyNs: 200n },
    write: NONE,
    incarnation: "a",
    time: new Date(0),
    sample: 1,
    resetSample: 0,
    ...change,
  };
}

describe("counters", () => {
  it("that only rose go on", () => {
    const more = { bytes: 2n ** 64n - 1n, operations: 3n, latencyNs: 300n };
    expect(beganAnew(reading(), reading())).toBe(false);
    expect(beganAnew(reading(), reading({ read: more, write: more }))).toBe(false);
  });

  it.each([
    ["of another process of the target", { incarnation: "b" }],
    ["of another bdev", { bdevName: "w" }],
    ["with fewer bytes", { read: { bytes: 8_191n, operations: 2n, latencyNs: 200n } }],
    ["with fewer operations", { read: { bytes: 8_192n, operations: 1n, latencyNs: 200n } }],
    ["with less time", { read: { bytes: 8_192n, operations: 2n, latencyNs: 199n } }],
  ])("%s begin anew", (_what, change) => {
    expect(beganAnew(reading(), reading(change))).toBe(true);
    const gone = { incarnation: undefined };
    expect(beganAnew(reading(gone), reading())).toBe(true);
  });
});

describe("ticks", () => {
  it("become exact nanoseconds, also beyond 2^53", () => {
    expect(ticksToNs(2_600_000_000n, 2_600_000_000n)).toBe(1_000_000_000n);
    expect(ticksToNs(2n ** 64n - 1n, 1_000_000_000n)).toBe(2n ** 64n - 1n);
    expect(ticksToNs(13n, 2_600_000_000n)).toBe(5n);
    expect(ticksToNs(5n, 0n)).toBe(0n);
  });
});
