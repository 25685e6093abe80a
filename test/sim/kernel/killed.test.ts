// The process that simulates the kernel is killed at each of its file system changes: the next
// start must restore the state before the write or complete the state after it.
import { cpSync, lstatSync, readFileSync, readdirSync, readlinkSync } from "node:fs";
import type * as FileSystem from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { buildKernelTree, type KernelSpec } from "../../../src/sim/kernel/build-tree.ts";
import { openSimulatedKernel } from "../../../src/sim/kernel/simulated-kernel.ts";
import type { Kernel } from "../../../src/sysfs/kernel.ts";
import { A, drive, functionAt, MIB } from "../../support/kernel-scenario.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

/** Changes that still succeed before every further one fails; number of changes so far. */
const budget = vi.hoisted(() => ({ remaining: Number.POSITIVE_INFINITY, changes: 0 }));

vi.mock("node:fs/promises", async (importOriginal) => {
  const real = await importOriginal<typeof FileSystem>();
  const limited =
    <Args extends unknown[], Result>(change: (...args: Args) => Promise<Result>) =>
    async (...args: Args): Promise<Result> => {
      budget.changes += 1;
      budget.remaining -= 1;
      if (budget.remaining < 0) throw new Error("killed");
      return await change(...args);
    };
  return {
    ...real,
    mkdir: limited(real.mkdir),
    rename: limited(real.rename),
    rm: limited(real.rm),
    symlink: limited(real.symlink),
    unlink: limited(real.unlink),
    writeFile: limited(real.writeFile),
  };
});

beforeEach(() => {
  budget.remaining = Number.POSITIVE_INFINITY;
});

/** Path, type and content of every entry of the tree except the scratch folder. */
function snapshot(root: string): readonly string[] {
  const walk = (path: string): readonly string[] =>
    readdirSync(join(root, path)).flatMap((name) => {
      const at = `${path}/${name}`;
      if (at === "/var/sim/scratch") return [];
      const stat = lstatSync(join(root, at));
      if (stat.isDirectory()) return [`${at}/`, ...walk(at)];
      if (stat.isSymbolicLink()) return [`${at} -> ${readlinkSync(join(root, at))}`];
      if (at.endsWith(".img")) return [`${at} ${stat.size}`];
      return [`${at} ${readFileSync(join(root, at), "latin1")}`];
    });
  return walk("").toSorted();
}

const PCI = "/sys/bus/pci";
const ONE_DRIVE: KernelSpec = {
  drives: [{ ...drive(A, "SIMA", "2"), namespaces: [{ sizeBytes: MIB }] }],
};
const OVERRIDE = [`${PCI}/devices/${A}/driver_override`, "vfio-pci"] as const;
const UNBIND = [`${PCI}/drivers/nvme/unbind`, A] as const;
const PROBE = [`${PCI}/drivers_probe`, A] as const;
const LEAVE_VFIO = [`${PCI}/drivers/vfio-pci/unbind`, A] as const;
const CLEAR = [`${PCI}/devices/${A}/driver_override`, "\n"] as const;

const WRITES = [OVERRIDE, UNBIND, PROBE, LEAVE_VFIO, CLEAR, PROBE];

async function settled(root: string): Promise<readonly string[]> {
  await using kernel = await openSimulatedKernel(root);
  // The snapshot must not depend on anything the kernel does after opening.
  expect(await kernel.list("/sys/bus/pci/devices")).toEqual([A]);
  return snapshot(root);
}

async function replay(kernel: Kernel, writes: readonly (readonly [string, string])[]) {
  for (const [path, text] of writes) await kernel.write(path, text);
}

/** Builds a tree in folder `to` and applies the first `count` writes to it. */
async function buildAfterWrites(count: number, to: string): Promise<void> {
  await buildKernelTree(to, ONE_DRIVE);
  await using kernel = await openSimulatedKernel(to, { appearMs: 0 });
  await replay(kernel, WRITES.slice(0, count));
}

describe("a simulated kernel killed in the middle of a write", () => {
  test.each(WRITES.map(([path, text], index) => [index, path, text] as const))(
    "%i: to %s of %j leaves the state before or after the write",
    async (index, path, text) => {
      await using start = await temporaryFolder();
      await buildAfterWrites(index, start.path);
      const before = await settled(start.path);
      await using end = await temporaryFolder();
      await buildAfterWrites(index + 1, end.path);
      const after = await settled(end.path);
      expect(after).not.toEqual(before);
      let [endedBefore, endedAfter] = [0, 0];
      for (let allowed = 0; ; allowed += 1) {
        await using folder = await temporaryFolder();
        cpSync(start.path, folder.path, { recursive: true, verbatimSymlinks: true });
        const kernel = await openSimulatedKernel(folder.path, { appearMs: 60_000 });
        budget.remaining = allowed;
        const outcome = await kernel.write(path, text).then(
          () => "finished",
          () => "killed",
        );
        // A killed process does not dispose its kernel: the changes of the disposal fail too.
        if (outcome === "finished") budget.remaining = Number.POSITIVE_INFINITY;
        await Promise.allSettled([kernel[Symbol.asyncDispose]()]);
        budget.remaining = Number.POSITIVE_INFINITY;
        const restored = await settled(folder.path);
        const isBefore = JSON.stringify(restored) === JSON.stringify(before);
        if (!isBefore) expect(restored, `killed at change ${allowed}`).toEqual(after);
        if (isBefore) endedBefore += 1;
        else endedAfter += 1;
        if (outcome === "finished") break;
      }
      expect(endedBefore).toBeGreaterThan(0);
      expect(endedAfter).toBeGreaterThan(0);
    },
  );
});

test("a tree whose build was killed at any point is completed by building it again", async () => {
  await using whole = await temporaryFolder();
  await buildKernelTree(whole.path, ONE_DRIVE);
  const done = snapshot(whole.path);
  budget.changes = 0;
  await using counted = await temporaryFolder();
  await buildKernelTree(counted.path, ONE_DRIVE);
  const changes = budget.changes;
  expect(changes).toBeGreaterThan(50);
  // Test every third change to limit the run time: a build makes about a hundred.
  for (let allowed = 0; allowed < changes; allowed += 3) {
    await using folder = await temporaryFolder();
    budget.remaining = allowed;
    await buildKernelTree(folder.path, ONE_DRIVE).catch(() => {});
    budget.remaining = Number.POSITIVE_INFINITY;
    await buildKernelTree(folder.path, ONE_DRIVE);
    expect(snapshot(folder.path), `killed at change ${allowed}`).toEqual(done);
  }
  await using kernel = await openSimulatedKernel(whole.path);
  expect(await functionAt(kernel, A)).toMatchObject({ driver: "nvme" });
});
