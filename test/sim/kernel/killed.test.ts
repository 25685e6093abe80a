// The process that simulates the kernel is killed at any of its changes to the file system: what is
// left must become, at the next start, the state before the write or the one after it.
import { cpSync, lstatSync, readFileSync, readdirSync, readlinkSync } from "node:fs";
import type * as FileSystem from "node:fs/promises";
import { join } from "node:path";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { buildKernelTree, type KernelSpec } from "../../../src/sim/kernel/build-tree.ts";
import { openSimulatedKernel } from "../../../src/sim/kernel/simulated-kernel.ts";
import type { Kernel } from "../../../src/sysfs/kernel.ts";
import { A, drive, functionAt, MIB } from "../../support/kernel-scenario.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

/** How many more changes are let through; after the last one every further one fails. */
const history = vi.hoisted(() => ({ left: Number.POSITIVE_INFINITY, changes: 0 }));

vi.mock("node:fs/promises", async (importOriginal) => {
  const real = await importOriginal<typeof FileSystem>();
  const mortal =
    <Args extends unknown[], Result>(change: (...args: Args) => Promise<Result>) =>
    async (...args: Args): Promise<Result> => {
      history.changes += 1;
      history.left -= 1;
      if (history.left < 0) throw new Error("killed");
      return await change(...args);
    };
  return {
    ...real,
    mkdir: mortal(real.mkdir),
    rename: mortal(real.rename),
    rm: mortal(real.rm),
    symlink: mortal(real.symlink),
    unlink: mortal(real.unlink),
    writeFile: mortal(real.writeFile),
  };
});

beforeEach(() => {
  history.left = Number.POSITIVE_INFINITY;
});

/** Everything in the tree but the scratch folder: path, kind and content. */
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

const HISTORY = [OVERRIDE, UNBIND, PROBE, LEAVE_VFIO, CLEAR, PROBE];

async function settled(root: string): Promise<readonly string[]> {
  await using kernel = await openSimulatedKernel(root);
  // Opening is what completes it, not anything that the kernel does later.
  expect(await kernel.list("/sys/bus/pci/devices")).toEqual([A]);
  return snapshot(root);
}

async function replay(kernel: Kernel, writes: readonly (readonly [string, string])[]) {
  for (const [path, text] of writes) await kernel.write(path, text);
}

/** Copies a tree in which the first writes of the history are done to a folder. */
async function lived(count: number, to: string): Promise<void> {
  await buildKernelTree(to, ONE_DRIVE);
  await using kernel = await openSimulatedKernel(to, { appearMs: 0 });
  await replay(kernel, HISTORY.slice(0, count));
}

describe("a simulated kernel killed in the middle of a write", () => {
  test.each(HISTORY.map(([path, text], index) => [index, path, text] as const))(
    "%i: to %s of %j leaves the state before or after it",
    async (index, path, text) => {
      await using start = await temporaryFolder();
      await lived(index, start.path);
      const before = await settled(start.path);
      await using end = await temporaryFolder();
      await lived(index + 1, end.path);
      const after = await settled(end.path);
      expect(after).not.toEqual(before);
      let [seenBefore, seenAfter] = [0, 0];
      for (let histories = 0; ; histories += 1) {
        await using folder = await temporaryFolder();
        cpSync(start.path, folder.path, { recursive: true, verbatimSymlinks: true });
        const kernel = await openSimulatedKernel(folder.path, { appearMs: 60_000 });
        history.left = histories;
        const outcome = await kernel.write(path, text).then(
          () => "finished",
          () => "killed",
        );
        // A killed process does not get to ending its timers in an orderly way either.
        if (outcome === "finished") history.left = Number.POSITIVE_INFINITY;
        await Promise.allSettled([kernel[Symbol.asyncDispose]()]);
        history.left = Number.POSITIVE_INFINITY;
        const left = await settled(folder.path);
        const isBefore = JSON.stringify(left) === JSON.stringify(before);
        if (!isBefore) expect(left, `killed at change ${histories}`).toEqual(after);
        if (isBefore) seenBefore += 1;
        else seenAfter += 1;
        if (outcome === "finished") break;
      }
      expect(seenBefore).toBeGreaterThan(0);
      expect(seenAfter).toBeGreaterThan(0);
    },
  );
});

test("a tree whose building was killed at any point is completed by building it again", async () => {
  await using whole = await temporaryFolder();
  await buildKernelTree(whole.path, ONE_DRIVE);
  const done = snapshot(whole.path);
  history.changes = 0;
  await using counted = await temporaryFolder();
  await buildKernelTree(counted.path, ONE_DRIVE);
  const changes = history.changes;
  expect(changes).toBeGreaterThan(50);
  // Every third: a build is some hundred changes.
  for (let histories = 0; histories < changes; histories += 3) {
    await using folder = await temporaryFolder();
    history.left = histories;
    await buildKernelTree(folder.path, ONE_DRIVE).catch(() => {});
    history.left = Number.POSITIVE_INFINITY;
    await buildKernelTree(folder.path, ONE_DRIVE);
    expect(snapshot(folder.path), `killed at change ${histories}`).toEqual(done);
  }
  await using kernel = await openSimulatedKernel(whole.path);
  expect(await functionAt(kernel, A)).toMatchObject({ driver: "nvme" });
});
