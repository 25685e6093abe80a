// Hundreds of random histories of a node. RUNS sets their number, SEED makes them reproducible; a
// failing history is shrunk to a shorter failing one and printed with its seed.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { histories, HOSTS, runHistory } from "../support/random-history.ts";

const RUNS = Number(process.env["RUNS"] ?? 100);
const SEED = Number(process.env["SEED"] ?? Date.now() % 2 ** 31);
/** Histories that run concurrently: each waits most of the time. */
const CONCURRENT = 10;
const LIMIT_MS = Math.max(RUNS * 1_000, 60_000);

/** Prints a failing history immediately: shrinking it may take longer than the time limit. */
function reportFailure(actions: unknown, error: unknown): never {
  process.stderr.write(`${String(error)} after ${JSON.stringify(actions)}\n`);
  throw error;
}

it("a history in which an lvol is made, its record outdated and the target killed loses no volume", async () => {
  const { found, wanted } = await runHistory([
    { do: "provision", slot: 3, wait: false },
    { do: "allow", slot: 3, host: HOSTS[2], wait: false },
    { do: "await answers" },
    { do: "kill", victim: "target", when: "before", nth: 2 },
  ]);
  expect(found).toEqual(wanted);
}, 60_000);

describe.concurrent("a random history of calls and faults", () => {
  it.each(Array.from({ length: CONCURRENT }, (_, index) => index))(
    "ends with rows and target in agreement, no volume lost and no object left over (part %i)",
    async (part) => {
      const property = fc.asyncProperty(histories, async (actions) => {
        const atRest = await runHistory(actions).catch((error: unknown) =>
          reportFailure(actions, error),
        );
        expect(atRest.found).toEqual(atRest.wanted);
      });
      await fc.assert(property, {
        seed: SEED + part,
        numRuns: Math.ceil(RUNS / CONCURRENT),
        // Stop shrinking in time to report the failure found so far.
        interruptAfterTimeLimit: LIMIT_MS - 20_000,
        verbose: 1,
      });
    },
    LIMIT_MS,
  );
});
