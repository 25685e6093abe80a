// Which readers get a frame at which tick, when their intervals differ.
import { describe, expect, it } from "vitest";
import type { IostatFilter, IostatFrame } from "../../../src/model/iostat.ts";
import { IostatReaders } from "../../../src/reconcile/target/iostat-readers.ts";

const ALL: IostatFilter = { lvolIds: "all", diskIds: "all", includeDisks: false };
const ONE: IostatFilter = { ...ALL, lvolIds: ["one"] };

/** Readers by name, and a tick that delivers a frame to all that are due and says to whom. */
function readers() {
  const all = new IostatReaders();
  let sample = 0;
  let got: string[] = [];
  const add = (name: string, intervalMs: number, filter = ALL) =>
    all.add({ filter, intervalMs, onFrame: () => got.push(name) });
  const tick = (atMs: number): readonly string[] => {
    got = [];
    sample += 1;
    const frame: IostatFrame = { sample, time: new Date(), readings: [] };
    for (const group of all.due(atMs)) group.deliver(frame, atMs);
    return got;
  };
  return { all, add, tick };
}

describe("the readers of I/O counters", () => {
  it("share ticks as far apart as the shortest interval, others get every n-th", () => {
    const { all, add, tick } = readers();
    add("second", 1_000);
    add("two", 2_000);
    add("odd", 2_500);
    expect(all.shortestMs).toBe(1_000);
    const ticks = [0, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000].map(tick);
    const of = (name: string) => ticks.map((got) => got.filter((one) => one === name).length);
    expect(of("second")).toEqual([1, 1, 1, 1, 1, 1, 1]);
    expect(of("two")).toEqual([1, 0, 1, 0, 1, 0, 1]);
    // Rounded up to whole ticks.
    expect(of("odd")).toEqual([1, 0, 0, 1, 0, 0, 1]);
  });

  it("are due at the next tick when they come, and never after they have gone", () => {
    const { all, add, tick } = readers();
    add("first", 1_000);
    tick(0);
    const remove = add("late", 500);
    expect(all.shortestMs).toBe(500);
    expect(tick(500)).toEqual(["late"]);
    expect(tick(1_000)).toEqual(["first", "late"]);
    const [due] = all.due(2_000);
    remove();
    remove();
    expect([all.size, all.shortestMs]).toEqual([1, 1_000]);
    const got = tick(2_000);
    expect(got).toEqual(["first"]);
    // It was due when the target was asked, and has gone meanwhile.
    due?.deliver({ sample: 9, time: new Date(), readings: [] }, 2_000);
    expect(got).toEqual(["first", "first"]);
  });

  it("stay due when a tick brought nothing", () => {
    const { all, add, tick } = readers();
    add("one", 60_000);
    tick(0);
    expect(all.due(60_000)).toHaveLength(1);
    expect(all.due(61_000)).toHaveLength(1);
    expect(tick(62_000)).toEqual(["one"]);
    expect(all.due(62_000)).toHaveLength(0);
  });

  it("with one filter are one group", () => {
    const { all, add } = readers();
    for (let n = 0; n < 10; n += 1) add(`all ${n}`, 1_000);
    add("one", 1_000, ONE);
    expect(all.due(0).map(({ filter }) => filter)).toEqual([ALL, ONE]);
  });
});
