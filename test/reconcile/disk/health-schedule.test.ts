// Health pages are read once a minute each, and not all at once.
import { expect, it } from "vitest";
import { HEALTH_FIRST_MS, HEALTH_MS } from "../../../src/limits.ts";
import { controllerName } from "../../../src/model/identity.ts";
import { firstDue, nextDue } from "../../../src/reconcile/disk/health-schedule.ts";

const NAMES = Array.from({ length: 24 }, (_, index) =>
  controllerName({ traddr: `0000:${(index + 1).toString(16).padStart(2, "0")}:00.0` }),
);
const START = 1_234_567;

it("a controller is read within seconds, then once in each minute", () => {
  for (const name of NAMES) {
    const first = firstDue(name, START, HEALTH_MS);
    expect(first - START).toBeGreaterThanOrEqual(0);
    expect(first - START).toBeLessThanOrEqual(HEALTH_FIRST_MS);
    // The loop comes some time after a read is due.
    const late = 900;
    const second = nextDue(name, first + late, HEALTH_MS);
    expect(second - first).toBeGreaterThanOrEqual(HEALTH_MS / 2);
    expect(second - first).toBeLessThanOrEqual(1.5 * HEALTH_MS + late);
    const third = nextDue(name, second + late, HEALTH_MS);
    expect(third - second).toBeCloseTo(HEALTH_MS, 3);
  }
});

it("those of a node are spread over the minute", () => {
  const inTenSeconds = Map.groupBy(NAMES, (name) =>
    Math.floor((nextDue(name, START, HEALTH_MS) % HEALTH_MS) / 10_000),
  );
  expect(inTenSeconds.size).toBe(6);
  for (const names of inTenSeconds.values()) expect(names.length).toBeLessThan(10);
});
