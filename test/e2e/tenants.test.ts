// Random histories of tenants on a small disk, with kills of agent and target: no volume ever shows a byte
// of another one (docs/architecture.md#r7-tenants-and-free-space). RUNS and SEED as in random-history.test.ts.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { runTenants, tenantHistories } from "../support/tenants.ts";

const RUNS = Number(process.env["RUNS"] ?? 40);
const SEED = Number(process.env["SEED"] ?? Date.now() % 2 ** 31);
const CONCURRENT = 4;
const LIMIT_MS = Math.max(RUNS * 3_000, 60_000);

describe.concurrent("tenants that write, discard, delete and come anew", () => {
  it.each(Array.from({ length: CONCURRENT }, (_, index) => index))(
    "are shown nothing but zeros and what they wrote (part %i)",
    async (part) => {
      let found = 0;
      const property = fc.asyncProperty(tenantHistories, async (history) => {
        const { soiled, read } = await runTenants(history);
        found += read;
        expect(soiled).toBe(0);
      });
      await fc.assert(property, {
        seed: SEED + part,
        numRuns: Math.ceil(RUNS / CONCURRENT),
        interruptAfterTimeLimit: LIMIT_MS - 20_000,
        verbose: 1,
      });
      // The histories are no empty ones.
      expect(found).toBeGreaterThan(RUNS / CONCURRENT);
    },
    LIMIT_MS,
  );
});
