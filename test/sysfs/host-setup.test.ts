// What recorded kernels have for a target, and the limits of processes.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import { readHostSetup, readOwnLimits, readTargetLimits } from "../../src/sysfs/host-setup.ts";
import { openKernel } from "../../src/sysfs/kernel.ts";
import { materialise } from "../support/materialise.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

it.each([
  ["kernel-bound", { hasIommu: true, hasVfioPci: false, vfioNode: "absent" }, 16n],
  ["vfio-loaded", { hasIommu: true, hasVfioPci: true, vfioNode: "open" }, 16n],
  ["vfio-bound", { hasIommu: true, hasVfioPci: true, vfioNode: "open" }, 16n],
  ["no-iommu", { hasIommu: false, hasVfioPci: false, vfioNode: "absent" }, 16n],
  // Its only group is that of the unsafe mode.
  ["noiommu-mode", { hasIommu: false, hasVfioPci: true, vfioNode: "open" }, 0n],
] as const)("%s", async (state, expected, pages) => {
  await using folder = await temporaryFolder();
  await materialise(state, folder.path);
  const setup = await readHostSetup(openKernel(folder.path), folder.path);
  expect(setup).toMatchObject(expected);
  expect(setup.hugepages).toContainEqual({
    node: 0,
    pageBytes: 2_097_152n,
    total: pages,
    free: pages,
  });
  expect(setup.cpus.get(0)).toEqual(new Set([0, 1]));
  expect(setup.drives.map(({ address }) => address)).toContain("0000:00:04.0");
});

const LIMITS = `Limit                     Soft Limit           Hard Limit           Units
Max open files            1024                 1048576              files
Max locked memory         8388608              unlimited            bytes
Max address space         unlimited            unlimited            bytes
`;

async function processes(root: string, pid: string, name: string, capabilities: string) {
  const at = join(root, "proc", pid);
  await mkdir(at, { recursive: true });
  await writeFile(join(at, "limits"), LIMITS);
  await writeFile(join(at, "comm"), `${name}\n`);
  await writeFile(join(at, "status"), `Name:\t${name}\nCapEff:\t${capabilities}\n`);
}

it("the limits of a target are those of a process whose first thread is a reactor", async () => {
  await using folder = await temporaryFolder();
  await processes(folder.path, "100", "reactor_0", "000001ffffffffff");
  await processes(folder.path, "200", "node", "000001ffffffffff");
  await processes(folder.path, "self", "node", "0000000000000000");
  const kernel = openKernel(folder.path);
  const limits = { lockedBytes: 8_388_608n, openFiles: 1_024n };
  expect(await readTargetLimits(kernel, 100)).toEqual({ ...limits, locksFreely: true });
  // The pid of another container is that of somebody else here.
  expect(await readTargetLimits(kernel, 200)).toBeUndefined();
  expect(await readTargetLimits(kernel, 300)).toBeUndefined();
  expect(await readOwnLimits(kernel)).toEqual({ ...limits, locksFreely: false });
});
