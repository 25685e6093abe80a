import { expect, test } from "vitest";
import { closeGroup, openGroup } from "../../src/sim/kernel/vfio-users.ts";
import type { Kernel } from "../../src/sysfs/kernel.ts";
import { vfioUsers } from "../../src/sysfs/vfio-users.ts";
import { kernelScenario } from "../support/kernel-scenario.ts";

const GROUPS = new Set(["2", "3"]);

test("a group that a process has open is named with the process, the target's own left out", async () => {
  await using scenario = await kernelScenario();
  expect(await vfioUsers(scenario.kernel, GROUPS, undefined)).toEqual(new Map());
  openGroup(scenario.root, "2", { pid: process.pid, command: "qemu" });
  const text = `process ${process.pid} (qemu) has it open: /dev/vfio/2`;
  expect(await vfioUsers(scenario.kernel, GROUPS, undefined)).toEqual(new Map([["2", text]]));
  expect(await vfioUsers(scenario.kernel, GROUPS, process.pid)).toEqual(new Map());
  closeGroup(scenario.root, "2", process.pid);
  expect(await vfioUsers(scenario.kernel, GROUPS, undefined)).toEqual(new Map());
});

test("a process that cannot be looked at may have every group open", async () => {
  await using scenario = await kernelScenario();
  openGroup(scenario.root, "2", { pid: process.pid, command: "qemu" });
  const hidden: Kernel = {
    ...scenario.kernel,
    readLink: async () => {
      throw Object.assign(new Error("EACCES"), { code: "EACCES" });
    },
  };
  const users = await vfioUsers(hidden, GROUPS, undefined);
  expect([...users.keys()].toSorted()).toEqual(["2", "3"]);
  expect(users.get("3")).toContain("cannot be looked at");
});

test("no process is asked while no group is in question", async () => {
  await using scenario = await kernelScenario();
  const asked: string[] = [];
  const watched: Kernel = {
    ...scenario.kernel,
    list: async (path) => {
      asked.push(path);
      return await scenario.kernel.list(path);
    },
  };
  expect(await vfioUsers(watched, new Set(), undefined)).toEqual(new Map());
  expect(asked).toEqual([]);
});
