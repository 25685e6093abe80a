// What of the health of a disk is a commit: a change, or an hour without one.
import { expect, it } from "vitest";
import { HEALTH_RECORD_MS } from "../../../src/limits.ts";
import type { SeenHealth } from "../../../src/model/seen-health.ts";
import { healthPatch } from "../../../src/reconcile/disk/health-record.ts";
import { diskRow } from "../../support/model.ts";

const RECORDED = new Date("2026-11-26T00:00:00Z");
const after = (ms: number) => new Date(RECORDED.getTime() + ms);
const row = diskRow({ health: "OK", healthReasons: [], healthTime: RECORDED });
const seen = (change: Partial<SeenHealth> = {}): SeenHealth => ({
  health: "OK",
  reasons: [],
  sample: undefined,
  time: after(60_000),
  ...change,
});

const isWritten = (health: SeenHealth | undefined, of = row) =>
  Object.keys(healthPatch({ row: of, health })).length > 0;

it.each([
  ["nothing was seen yet", undefined, false],
  ["nothing has changed", seen(), false],
  ["almost an hour has passed", seen({ time: after(HEALTH_RECORD_MS - 1) }), false],
  ["an hour has passed", seen({ time: after(HEALTH_RECORD_MS) }), true],
  ["the class has changed", seen({ health: "DEGRADED", reasons: ["WEAR_HIGH"] }), true],
] as const)("if %s", (_what, health, written) => {
  expect(isWritten(health)).toBe(written);
});

it("another reason of the same class is written, the same one is not", () => {
  const worn = { health: "DEGRADED", reasons: ["WEAR_HIGH"] } as const;
  const recorded = diskRow({ ...row, health: "DEGRADED", healthReasons: ["WEAR_HIGH"] });
  expect(isWritten(seen(worn), recorded)).toBe(false);
  expect(isWritten(seen({ ...worn, reasons: ["LINK_SLOW"] }), recorded)).toBe(true);
});

it("what is written is written once", () => {
  const health = seen({ health: "FAILED", reasons: ["READ_ONLY"] });
  const patch = healthPatch({ row, health });
  expect(isWritten(health, diskRow({ ...row, ...patch }))).toBe(false);
});
