// What policy auto admits: disks that were blank in every look since the agent started, for long enough.
import { expect, it } from "vitest";
import { admittedByPolicy } from "../../../src/reconcile/disk/discover.ts";
import { Looks } from "../../../src/reconcile/disk/looks.ts";
import { openKernel } from "../../../src/sysfs/kernel.ts";
import { listNvme } from "../../../src/sysfs/nvme.ts";
import { A, kernelScenario } from "../../support/kernel-scenario.ts";
import { diskRow } from "../../support/model.ts";

const AUTO = {
  diskPolicy: "auto",
  diskAllow: [{ field: "model", glob: "*" }],
  diskSettleMs: 30_000,
} as const;

it("admits a disk that was blank for as long as the settings say, and no sooner", () => {
  const row = diskRow({ admitted: false, wanted: "take" });
  const at = (cleanForMs: number | undefined) =>
    admittedByPolicy(AUTO, row, { evidence: [], cleanForMs, fabric: undefined });
  expect(at(undefined)).toBe(false);
  expect(at(29_999)).toBe(false);
  expect(at(30_000)).toBe(true);
});

it("never counts a disk as blank again that once had evidence since the agent started", async () => {
  await using scenario = await kernelScenario();
  const topology = await listNvme(scenario.kernel);
  const looks = new Looks(scenario.kernel, undefined);
  expect(looks.isDue("d")).toBe(true);
  expect(await looks.look("d", topology, A)).toEqual([]);
  expect(looks.isDue("d")).toBe(false);
  expect(looks.cleanForMs("d")).toBeGreaterThanOrEqual(0);
  await scenario.writeBytes("SIMA", Buffer.from("XFSB"));
  expect(await looks.look("d", topology, A)).not.toEqual([]);
  expect(looks.cleanForMs("d")).toBeUndefined();
  await scenario.writeBytes("SIMA", Buffer.alloc(4));
  expect(await looks.look("d", topology, A)).toEqual([]);
  expect(looks.cleanForMs("d")).toBeUndefined();
});

it("counts what is of the node, and passes, for nothing", () => {
  const looks = new Looks(openKernel("/nowhere"), undefined);
  looks.found("d", [{ kind: "NOT_READY", subject: "S", detail: "controller is connecting" }]);
  expect(looks.cleanForMs("d")).toBeGreaterThanOrEqual(0);
});

it("takes nothing from a look during which the controller changed its driver", async () => {
  await using scenario = await kernelScenario();
  const topology = await listNvme(scenario.kernel);
  const looks = new Looks(scenario.kernel, undefined);
  const listed = Promise.withResolvers<void>();
  expect(await looks.look("d", topology, A)).toEqual([]);
  const early = looks.look("d", topology, A);
  const moving = looks.whileMoved(
    ["d"],
    () => Promise.resolve("done"),
    () => listed.promise,
  );
  expect(looks.evidence("d")).toBeUndefined();
  expect(await early).toBeUndefined();
  expect(await looks.look("d", topology, A)).toBeUndefined();
  expect(await looks.look("other", topology, A)).toEqual([]);
  expect(looks.evidence("other")).toEqual([]);
  listed.resolve();
  expect(await moving).toBe("done");
  expect(looks.isDue("d")).toBe(true);
  expect(await looks.look("d", topology, A)).toEqual([]);
});
