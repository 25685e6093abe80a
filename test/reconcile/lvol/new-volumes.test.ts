// For which volumes the agent knows that nobody can have made an lvol.
import { expect, it } from "vitest";
import { NewVolumes } from "../../../src/reconcile/lvol/new-volumes.ts";
import { lvolRow, VOLUME } from "../../support/model.ts";

const row = lvolRow();

it("has a volume whose row this agent committed, until its creation is sent", () => {
  const volumes = new NewVolumes(() => 1n);
  volumes.follow(VOLUME, { created: true, row });
  expect(volumes.has(VOLUME)).toBe(true);
  volumes.delete(VOLUME);
  expect(volumes.has(VOLUME)).toBe(false);
});

it("has no volume whose row was read: an earlier agent may have made its lvol", () => {
  const volumes = new NewVolumes(() => 1n);
  volumes.follow(VOLUME, { created: false, row });
  expect(volumes.has(VOLUME)).toBe(false);
});

it("has no volume of an earlier lease: another agent may have led in between", () => {
  let epoch: bigint | undefined = 1n;
  const volumes = new NewVolumes(() => epoch);
  volumes.follow(VOLUME, { created: true, row });
  epoch = undefined;
  expect(volumes.has(VOLUME)).toBe(false);
  epoch = 3n;
  expect(volumes.has(VOLUME)).toBe(false);
});
