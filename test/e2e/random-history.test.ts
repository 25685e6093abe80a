// Hundreds of random lives of a node. RUNS and SEED set how many and which; a life that ends badly is
// shortened as far as it still does and printed, with the seed that makes it again.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { live, histories } from "../support/random-history.ts";

const RUNS = Number(process.env["RUNS"] ?? 300);
const SEED = Number(process.env["SEED"] ?? Date.now() % 2 ** 31);
/** Lives wait more than they work. */
const ABREAST = 10;
const LIMIT_MS = Math.max(RUNS * 500, 60_000);

/** At once, as making it shorter may take longer than anybody waits. */
function say(actions: unknown, error: unknown): never {
  process.stderr.write(`${String(error)} after ${JSON.stringify(actions)}\n`);
  throw error;
}

describe.concurrent("whatever is asked of a node and whatever goes wrong meanwhile", () => {
  it.each(Array.from({ length: ABREAST }, (_, index) => index))(
    "at rest, rows and target agree and nothing was lost or left (part %i)",
    async (part) => {
      const property = fc.asyncProperty(histories, async (actions) => {
        const ended = await live(actions).catch((error: unknown) => say(actions, error));
        expect(ended.found).toEqual(ended.wanted);
      });
      await fc.assert(property, {
        seed: SEED + part,
        numRuns: Math.ceil(RUNS / ABREAST),
        // Time enough to say what was found so far.
        interruptAfterTimeLimit: LIMIT_MS - 20_000,
        verbose: 1,
      });
    },
    LIMIT_MS,
  );
});
