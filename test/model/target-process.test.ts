// The comparison of two processes of the target: what proves that they are one, what proves that they are
// not, and when neither does.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  continuityOf,
  sayTheSame,
  seenAgain,
  type ProcessClock,
  type ProcessFacts,
  type TargetProcess,
} from "../../src/model/target-process.ts";

const RATE = 2_600_000_000n;
const MS = RATE / 1_000n;
const MARK = "0123456789abcdef";

const mtimes = fc.bigInt({ min: 1n, max: 2n ** 61n });
const pids = fc.integer({ min: 1, max: 4_194_304 });
/** Read up to 40 days after the start, so that ticks pass 2^53. */
const clocks: fc.Arbitrary<ProcessClock> = fc
  .tuple(fc.bigInt({ min: 0n, max: 2n ** 56n }), fc.bigInt({ min: 0n, max: 40n * 86_400_000n }))
  .map(([startTicks, ageMs]) => ({ startTicks, ticks: startTicks + ageMs * MS, tickRate: RATE }));

const processes: fc.Arbitrary<TargetProcess> = fc.record({
  mark: fc.constant(MARK),
  socketMtimeNs: fc.option(mtimes, { nil: undefined }),
  pid: fc.option(pids, { nil: undefined }),
  clock: fc.option(clocks, { nil: undefined }),
});

const shares = fc.integer({ min: -1_000, max: 1_000 });

/** The same process, asked again after so many ms, with its start measured so far off (in 1/1000). */
function later(
  { mark: _mark, ...facts }: TargetProcess,
  awayMs: bigint,
  share: number,
): ProcessFacts {
  const { clock } = facts;
  if (clock === undefined) return facts;
  const away = awayMs * MS;
  const tolerance = 100n * MS + (away * 5n) / 1_000n;
  const startTicks = clock.startTicks + (tolerance * BigInt(share)) / 1_000n;
  return { ...facts, clock: { ...clock, startTicks, ticks: clock.ticks + away } };
}

const aways = fc.bigInt({ min: 0n, max: 86_400_000n });
const proves = ({ pid, clock }: ProcessFacts) => pid !== undefined || clock !== undefined;

describe("the same process", () => {
  it("is never taken for a restarted one, and is known by its pid or its clock", () => {
    fc.assert(
      fc.property(processes, aways, shares, (known, awayMs, share) => {
        const continuity = continuityOf(known, later(known, awayMs, share), [MARK]);
        expect(continuity).toBe(proves(known) ? "same" : "unsure");
      }),
    );
  });

  it("is not taken for a restarted one, whatever it does not say this time", () => {
    const saying = fc.tuple(fc.boolean(), fc.boolean(), fc.boolean());
    fc.assert(
      fc.property(processes, aways, saying, (known, awayMs, [time, pid, clock]) => {
        const all = later(known, awayMs, 0);
        const shown = {
          socketMtimeNs: time ? all.socketMtimeNs : undefined,
          pid: pid ? all.pid : undefined,
          clock: clock ? all.clock : undefined,
        };
        expect(continuityOf(known, shown, [MARK])).toBe(proves(shown) ? "same" : "unsure");
      }),
    );
  });

  it("stays known by what it said once", () => {
    fc.assert(
      fc.property(processes, aways, (known, awayMs) => {
        const nothing = { socketMtimeNs: undefined, pid: undefined, clock: undefined };
        expect(seenAgain(known, nothing)).toEqual(known);
        expect(sayTheSame(known, seenAgain(known, later(known, awayMs, 500)))).toBe(true);
      }),
    );
  });
});

describe("a restarted process", () => {
  it("is known by any one difference, also under the mark of the one before", () => {
    const differs = fc.constantFrom("socketMtimeNs", "pid", "clock" as const);
    const whole = processes.filter(
      (one) => one.socketMtimeNs !== undefined && one.pid !== undefined && one.clock !== undefined,
    );
    fc.assert(
      fc.property(whole, aways, differs, (known, awayMs, difference) => {
        const same = later(known, awayMs, 0);
        const shown = { ...same };
        if (difference === "pid") shown.pid = (known.pid ?? 0) + 1;
        if (difference === "socketMtimeNs") shown.socketMtimeNs = (known.socketMtimeNs ?? 0n) + 1n;
        if (difference === "clock") shown.clock = later(known, awayMs, 1_001).clock;
        // Of 1,001 parts of the tolerance one is beyond it, unless it is rounded away.
        expect(continuityOf(known, shown, [MARK])).toBe("restarted");
      }),
    );
  });

  it("starts after the one before was last seen: its clock tells, however long both lived", () => {
    fc.assert(
      fc.property(
        clocks,
        fc.bigInt({ min: 200n, max: 86_400_000n }),
        aways,
        (clock, gapMs, ageMs) => {
          fc.pre(ageMs * 5n < gapMs * 900n);
          const known = { mark: MARK, socketMtimeNs: undefined, pid: undefined, clock };
          const startTicks = clock.ticks + gapMs * MS;
          const ticks = startTicks + ageMs * MS;
          const shown = { ...known, clock: { startTicks, ticks, tickRate: RATE } };
          expect(continuityOf(known, shown, [MARK])).toBe("restarted");
        },
      ),
    );
  });

  it("is one that carries no mark, or marks that are not known", () => {
    fc.assert(
      fc.property(processes, (known) => {
        expect(continuityOf(known, known, [])).toBe("restarted");
        expect(continuityOf(known, known, ["another"])).toBe("restarted");
        expect(continuityOf(undefined, known, [])).toBe("restarted");
      }),
    );
  });

  it("after a boot of the machine has a younger clock", () => {
    const clock = { startTicks: 10n * RATE, ticks: 100n * RATE, tickRate: RATE };
    const booted = { ...clock, ticks: 50n * RATE };
    const known = { mark: MARK, socketMtimeNs: undefined, pid: undefined, clock };
    expect(continuityOf(known, { ...known, clock: booted }, [MARK])).toBe("restarted");
  });
});

describe("a process with a mark of this node", () => {
  it("is neither, when nothing was recorded of any", () => {
    fc.assert(
      fc.property(processes, (shown) => {
        expect(continuityOf(undefined, shown, [MARK])).toBe("unsure");
      }),
    );
  });
});
