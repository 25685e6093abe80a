import { open, stat } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { buildKernelTree, unplug } from "../../../src/sim/kernel/build-tree.ts";
import { openSimulatedKernel } from "../../../src/sim/kernel/simulated-kernel.ts";
import { openTree } from "../../../src/sim/kernel/tree.ts";
import { unmount } from "../../../src/sim/kernel/use.ts";
import { gatherEvidence } from "../../../src/sysfs/disk-evidence.ts";
import { listNvme } from "../../../src/sysfs/nvme.ts";
import {
  A,
  B,
  claim,
  drive,
  functionAt,
  kernelScenario,
  MIB,
  stateOf,
  TWO_DRIVES,
} from "../../support/kernel-scenario.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

test("building again keeps driver bindings and data, and plugs new drives", async () => {
  await using folder = await temporaryFolder();
  await buildKernelTree(folder.path, TWO_DRIVES);
  {
    await using kernel = await openSimulatedKernel(folder.path);
    expect(await claim(kernel, A)).toMatchObject({ ok: true });
    await using image = await open(join(folder.path, "var/sim/disks/SIMA.img"), "r+");
    await image.write("SPDKBLOB", 0);
  }
  const third = drive("0000:00:06.0", "SIMC", "4");
  await buildKernelTree(folder.path, { drives: [...TWO_DRIVES.drives, third] });
  await using kernel = await openSimulatedKernel(folder.path);
  expect(await stateOf(kernel, A)).toMatchObject({ driver: "vfio-pci", serials: [] });
  expect(await stateOf(kernel, B)).toMatchObject({ driver: "nvme", serials: ["SIMB"] });
  expect(await stateOf(kernel, third.address)).toMatchObject({ serials: ["SIMC"] });
  await using image = await open(join(folder.path, "var/sim/disks/SIMA.img"), "r");
  expect((await image.read(Buffer.alloc(8), 0, 8, 0)).buffer.toString()).toBe("SPDKBLOB");
});

test("the image of a drive is sparse until it is written", async () => {
  await using scenario = await kernelScenario({
    drives: [{ ...drive(A, "SIMA", "2"), namespaces: [{ sizeBytes: 8n * 1024n * 1024n * MIB }] }],
  });
  const { size, blocks } = await stat(join(scenario.root, "var/sim/disks/SIMA.img"));
  expect(BigInt(size)).toBe(8n * 1024n * 1024n * MIB);
  expect(blocks).toBeLessThan(64);
  expect(await gatherEvidence(scenario.kernel, await listNvme(scenario.kernel), A)).toEqual([]);
});

test("an unplugged drive disappears and comes back with its data", async () => {
  await using scenario = await kernelScenario();
  {
    await using image = await open(join(scenario.root, "var/sim/disks/SIMA.img"), "r+");
    await image.write("XFSB", 0);
  }
  await unplug(scenario.root, A);
  const { functions } = await listNvme(scenario.kernel);
  expect(functions.map(({ pciAddress }) => pciAddress)).toEqual([B]);
  expect(await scenario.kernel.list("/sys/block")).toHaveLength(1);
  expect(await scenario.kernel.list("/sys/bus/pci/drivers/nvme")).not.toContain(A);

  await buildKernelTree(scenario.root, TWO_DRIVES);
  const evidence = await gatherEvidence(scenario.kernel, await listNvme(scenario.kernel), A);
  expect(evidence.map(({ kind }) => kind)).toEqual(["NONZERO_DATA", "SIGNATURE"]);
});

test("a drive can be built with partitions in use, initial bytes and a holder", async () => {
  await using scenario = await kernelScenario({
    drives: [
      {
        ...drive(A, "SIMA", "2"),
        namespaces: [
          {
            sizeBytes: 64n * MIB,
            partitions: [
              { startBytes: MIB, sizeBytes: 8n * MIB, use: { kind: "mount", at: "/mnt/data" } },
              { startBytes: 16n * MIB, sizeBytes: 8n * MIB, use: { kind: "swap" } },
            ],
          },
          {
            sizeBytes: 32n * MIB,
            blockSizeBytes: 4096,
            bytes: [{ at: 0n, data: Buffer.from("LUKS\xba\xbe", "latin1") }],
            use: { kind: "holder", name: "vault" },
          },
        ],
      },
    ],
  });
  const topology = await listNvme(scenario.kernel);
  const evidence = async () =>
    (await gatherEvidence(scenario.kernel, topology, A)).map(
      ({ kind, subject }) => `${kind} ${subject}`,
    );
  expect(await evidence()).toEqual([
    "HOLDER SIMA/2",
    "MOUNTED SIMA/1p1",
    "NONZERO_DATA SIMA/1",
    "NONZERO_DATA SIMA/2",
    "PARTITION_TABLE SIMA/1",
    "PARTITION_TABLE SIMA/1",
    "SIGNATURE SIMA/2",
    "SWAP SIMA/1p2",
  ]);
  await unmount(openTree(scenario.root), "/mnt/data");
  expect(await evidence()).not.toContain("MOUNTED SIMA/1p1");
  expect((await functionAt(scenario.kernel, A)).controllers[0]!.namespaces).toMatchObject([
    { nsid: 1, blockSizeBytes: 512, partitions: [{ number: 1 }, { number: 2 }] },
    { nsid: 2, blockSizeBytes: 4096, sizeBytes: 32n * MIB },
  ]);
});
