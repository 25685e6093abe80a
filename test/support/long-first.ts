// Starts the test files that take longest first, so that none of them is left alone at the end. Vitest knows how long a
// file takes only after a first run on the same machine.
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Those that take more than 20 seconds. */
const LONG = [
  "e2e/release",
  "e2e/database-away",
  "e2e/controllers",
  "e2e/crash-points",
  "e2e/restored-database",
  "e2e/tenants",
  "e2e/random-history",
  "e2e/locate-disk",
  "e2e/zero-free-space",
  "demo/postgres",
  "reconcile/lvol/plans",
  "e2e/explain",
  "e2e/iostat",
  "e2e/health",
  "e2e/hosts",
  "e2e/wipe-disk",
  "e2e/adopt-orphan",
  "e2e/rebuild",
  "e2e/states",
  "e2e/watch",
].map((name) => `/test/${name}.test.ts`);

export class LongFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification) => {
      const index = LONG.findIndex((name) => moduleId.endsWith(name));
      return index === -1 ? LONG.length : index;
    };
    // oxlint-disable-next-line unicorn/no-array-sort -- it is vitest's, which returns a new array
    const sorted = await super.sort(files);
    return sorted.toSorted((a, b) => rank(a) - rank(b));
  }
}
