import { mkdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { closeGroup, openGroup } from "../../src/sim/kernel/vfio-users.ts";
import { openKernel, type Kernel } from "../../src/sysfs/kernel.ts";
import { vfioUsers } from "../../src/sysfs/vfio-users.ts";
import { kernelScenario } from "../support/kernel-scenario.ts";
import { materialise } from "../support/materialise.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

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

/** Of a virtual machine with iommufd: no group is open. vfio0 is in group 2, vfio1 in group 6. */
async function usersOf(...devices: readonly string[]) {
  await using folder = await temporaryFolder();
  await materialise("vfio-bound-shared-group", folder.path);
  const fds = join(folder.path, "proc/77/fd");
  await mkdir(fds, { recursive: true });
  await writeFile(join(folder.path, "proc/77/comm"), "qemu-system-x86\n");
  for (const [index, device] of ["/dev/iommu", ...devices].entries()) {
    await symlink(device, join(fds, `${index + 3}`));
  }
  return await vfioUsers(openKernel(folder.path), new Set(["2", "6"]), undefined);
}

test("a function that is open through its own device node has its group in use", async () => {
  const device = "/dev/vfio/devices/vfio1";
  const text = `process 77 (qemu-system-x86) has it open: ${device}`;
  expect(await usersOf(device)).toEqual(new Map([["6", text]]));
  expect(await usersOf()).toEqual(new Map());
});

test("a device node of which nobody can say whose it is may be that of any group", async () => {
  expect([...(await usersOf("/dev/vfio/devices/vfio9")).keys()]).toEqual(["2", "6"]);
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
