// How long exports are held back for zeroing: never beyond the bound, and not at all for what does not fit.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { takesClusters, zeroingHold, type HoldFacts } from "../../src/model/zeroing-hold.ts";
import { NO_LIMITS } from "../../src/model/lvol.ts";

const SINCE = new Date("2026-11-26T00:00:00Z");
const at = (ms: number) => new Date(SINCE.getTime() + ms);

const facts: fc.Arbitrary<HoldFacts & { readonly afterMs: number }> = fc
  .record({
    holdMs: fc.constantFrom(0, 600, 30_000, Number.POSITIVE_INFINITY),
    afterMs: fc.nat({ max: 60_000 }),
    isWanted: fc.boolean(),
    bytesLeft: fc.bigInt({ min: 0n, max: 2n ** 44n }),
    rate: fc.option(fc.bigInt({ min: 1n, max: 2n ** 34n }), { nil: undefined }),
  })
  .map((given) => ({ ...given, since: SINCE, now: at(given.afterMs) }));

describe("a hold", () => {
  it("ends at the bound at the latest, and is none where the bytes left do not fit into what is left of it", () => {
    fc.assert(
      fc.property(facts, (given) => {
        const { holdMs, afterMs, bytesLeft, rate, isWanted } = given;
        const hold = zeroingHold(given);
        if (holdMs === Number.POSITIVE_INFINITY) {
          expect(hold).toEqual({ until: undefined });
          return;
        }
        const leftMs = holdMs - afterMs;
        const fits = rate === undefined || Number(bytesLeft) * 1_000 <= Number(rate) * leftMs;
        expect(hold !== undefined).toBe(isWanted && leftMs > 0 && fits);
        if (hold !== undefined) expect(hold.until).toEqual(at(holdMs));
      }),
    );
  });

  it("concerns no volume that has all of its clusters", () => {
    const lvol = {
      kind: "present",
      uuid: "u",
      lvsUuid: "s",
      sizeBytes: 12n,
      thin: true,
      parent: undefined,
      limits: NO_LIMITS,
    } as const;
    expect(takesClusters({ ...lvol, allocatedClusters: 2n }, 4n)).toBe(true);
    expect(takesClusters({ ...lvol, allocatedClusters: 3n }, 4n)).toBe(false);
    // 24.01 does not say it.
    expect(takesClusters({ ...lvol, allocatedClusters: undefined }, 4n)).toBe(true);
    expect(takesClusters({ ...lvol, thin: false, allocatedClusters: 0n }, 4n)).toBe(false);
    expect(takesClusters({ kind: "absent" }, 4n)).toBe(false);
  });
});
