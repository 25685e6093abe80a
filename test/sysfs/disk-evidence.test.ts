import { appendFile, open, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { blank, type Evidence } from "../../src/model/evidence.ts";
import { openSimulatedKernel } from "../../src/sim/kernel/simulated-kernel.ts";
import { gatherEvidence, inspectForClaim } from "../../src/sysfs/disk-evidence.ts";
import type { Kernel } from "../../src/sysfs/kernel.ts";
import { listNvme } from "../../src/sysfs/nvme.ts";
import { A, drive, kernelScenario } from "../support/kernel-scenario.ts";
import { materialise, type RecordedState } from "../support/materialise.ts";
import { temporaryFolder, type TemporaryFolder } from "../support/temporary-folder.ts";

const BLANK = "0000:00:04.0";
const TWO_NAMESPACES = "0000:00:05.0";
const DATA = "0000:00:06.0";
const HELD = "0000:00:07.0";
const PAIR_A = "0000:00:08.0";

async function recorded(
  state: RecordedState,
): Promise<{ folder: TemporaryFolder; kernel: Kernel } & AsyncDisposable> {
  const folder = await temporaryFolder();
  await materialise(state, folder.path);
  const kernel = await openSimulatedKernel(folder.path);
  return {
    folder,
    kernel,
    [Symbol.asyncDispose]: async () => {
      await kernel[Symbol.asyncDispose]();
      await folder[Symbol.asyncDispose]();
    },
  };
}

async function evidenceIn(state: RecordedState, address: string): Promise<readonly Evidence[]> {
  await using scenario = await recorded(state);
  return await gatherEvidence(scenario.kernel, await listNvme(scenario.kernel), address);
}

const facts = (evidence: readonly Evidence[]) =>
  evidence.map(({ kind, subject, detail }) => `${kind} ${subject}: ${detail}`);

describe("the evidence against a disk", () => {
  test.each(["kernel-bound", "vfio-loaded", "multipath", "nvme-tcp"] as const)(
    "is empty for the blank drive of %s",
    async (state) => {
      expect(await evidenceIn(state, BLANK)).toEqual([]);
    },
  );

  test("has the mount, the swap and the partitions of a disk in use", async () => {
    expect(facts(await evidenceIn("kernel-bound", DATA))).toEqual([
      "MOUNTED RIGDATA00001/1p1: on /mnt/data",
      "PARTITION_TABLE RIGDATA00001/1: the kernel shows partition 1, 2",
      "SWAP RIGDATA00001/1p2: swap space in use",
    ]);
  });

  test("has the device that is stacked on a whole disk", async () => {
    expect(facts(await evidenceIn("kernel-bound", HELD))).toEqual([
      "HOLDER RIGHELD00001/1: device mapper righeld",
    ]);
  });

  test("has a mount found by device number if /proc/mounts has another name", async () => {
    await using scenario = await recorded("kernel-bound");
    const { functions } = await listNvme(scenario.kernel);
    const { dev } = functions[0]!.controllers[0]!.namespaces[0]!;
    await appendFile(
      join(scenario.folder.path, "proc/self/mountinfo"),
      `77 1 ${dev} / /boot/efi rw,relatime - vfat /dev/root rw\n`,
    );
    const evidence = await gatherEvidence(scenario.kernel, await listNvme(scenario.kernel), BLANK);
    expect(facts(evidence)).toEqual([
      "BOOT_DISK RIGBLANK0001/1: holds /boot/efi",
      "MOUNTED RIGBLANK0001/1: on /boot/efi",
    ]);
  });

  test("has BOOT_DISK if the root file system is on a device stacked on the disk", async () => {
    await using scenario = await recorded("kernel-bound");
    await appendFile(
      join(scenario.folder.path, "proc/mounts"),
      "/dev/mapper/righeld / ext4 rw,relatime 0 0\n",
    );
    const evidence = await gatherEvidence(scenario.kernel, await listNvme(scenario.kernel), HELD);
    expect(facts(evidence)).toEqual([
      "BOOT_DISK RIGHELD00001/1: holds /",
      "HOLDER RIGHELD00001/1: device mapper righeld",
      "MOUNTED RIGHELD00001/1: on / through device mapper righeld",
    ]);
  });

  test("covers the whole controller: it includes that of the second namespace", async () => {
    await using scenario = await recorded("kernel-bound");
    const topology = await listNvme(scenario.kernel);
    const { namespaces } = topology.functions[1]!.controllers[0]!;
    await using device = await open(join(scenario.folder.path, namespaces[1]!.device), "r+");
    await device.write(Buffer.from("LUKS\xba\xbe", "latin1"), 0, 6, 0);
    const evidence = await gatherEvidence(scenario.kernel, topology, TWO_NAMESPACES);
    expect(facts(evidence)).toEqual([
      "NONZERO_DATA RIGTWONS0001/2: in the first MiB",
      "SIGNATURE RIGTWONS0001/2: LUKS",
    ]);
  });

  test("is empty for a blank drive that shares its IOMMU group with another one", async () => {
    expect(facts(await evidenceIn("kernel-bound", PAIR_A))).toEqual([]);
  });

  test("has IOMMU_GROUP_SHARED if the group has a function that is no drive and has a driver", async () => {
    await using scenario = await kernelScenario({
      drives: [drive(A, "SIMA", "2")],
      others: [{ address: "0000:00:04.1", class: "0x010601", driver: "ahci", iommuGroup: "2" }],
    });
    const topology = await listNvme(scenario.kernel);
    expect(facts(await gatherEvidence(scenario.kernel, topology, A))).toEqual([
      `IOMMU_GROUP_SHARED 0000:00:04.1: driver ahci in the IOMMU group of ${A}`,
    ]);
  });

  test("has DRIVER_OVERRIDE if somebody has said which driver is to have the function", async () => {
    const pinned = { ...drive(A, "SIMA", "2"), driverOverride: "nvme" };
    await using scenario = await kernelScenario({ drives: [pinned] });
    const topology = await listNvme(scenario.kernel);
    expect(facts(await gatherEvidence(scenario.kernel, topology, A))).toEqual([
      `DRIVER_OVERRIDE ${A}: somebody has set driver_override to nvme`,
    ]);
  });

  test("comes from a look that keeps nobody from using the disk", async () => {
    await using scenario = await recorded("kernel-bound");
    const opened: string[] = [];
    const watched: Kernel = {
      ...scenario.kernel,
      openExclusive: async (device) => {
        opened.push(device);
        return await scenario.kernel.openExclusive(device);
      },
    };
    const topology = await listNvme(watched);
    for (const { pciAddress } of topology.functions) {
      await gatherEvidence(watched, topology, pciAddress);
    }
    expect(opened).toEqual([]);
  });

  test("covers the whole IOMMU group: it includes that of the other function's disk", async () => {
    await using scenario = await recorded("kernel-bound");
    const topology = await listNvme(scenario.kernel);
    const other = topology.functions.find(({ pciAddress }) => pciAddress === "0000:00:08.1")!;
    const [namespace] = other.controllers[0]!.namespaces;
    await using device = await open(join(scenario.folder.path, namespace!.device), "r+");
    await device.write(Buffer.from("XFSB"), 0, 4, 0);
    const evidence = await gatherEvidence(scenario.kernel, topology, PAIR_A);
    expect(evidence.map(({ kind, subject }) => `${kind} ${subject}`)).toContain(
      "SIGNATURE RIGPAIRB0001/1",
    );
  });

  test("is empty for a namespace that two controllers reach, which are taken together", async () => {
    expect(facts(await evidenceIn("multipath", "0000:00:09.0"))).toEqual([]);
  });

  test("has HOLDER if a controller reaches the namespace that is no function of this machine", async () => {
    await using scenario = await recorded("multipath");
    const { functions, fabrics } = await listNvme(scenario.kernel);
    const without = functions.filter(({ pciAddress }) => pciAddress !== "0000:00:10.0");
    const topology = { functions: without, fabrics };
    const evidence = await gatherEvidence(scenario.kernel, topology, "0000:00:09.0");
    expect(facts(evidence)).toEqual([
      "HOLDER RIGMP0000001/1: also reached through another controller",
    ]);
  });

  test("has NO_IOMMU without an IOMMU", async () => {
    expect(facts(await evidenceIn("no-iommu", BLANK))).toEqual([
      "NO_IOMMU 0000:00:04.0: function has no IOMMU group",
    ]);
  });

  test.each([
    [
      "unbound",
      [
        "DRIVER_OVERRIDE 0000:00:04.0: somebody has set driver_override to vfio-pci",
        "NOT_READY 0000:00:04.0: no driver",
      ],
    ],
    ["vfio-bound", ["NOT_READY 0000:00:04.0: driver vfio-pci"]],
  ] as const)("has NOT_READY for a drive that is not bound to nvme: %s", async (state, found) => {
    expect(facts(await evidenceIn(state, BLANK))).toEqual(found);
  });

  test("has UNREADABLE for a disk shorter than its size, and for one without a node", async () => {
    await using scenario = await recorded("kernel-bound");
    const topology = await listNvme(scenario.kernel);
    const node = join(
      scenario.folder.path,
      topology.functions[0]!.controllers[0]!.namespaces[0]!.device,
    );
    await truncate(node, 4096);
    expect(facts(await gatherEvidence(scenario.kernel, topology, BLANK))).toEqual([
      "UNREADABLE RIGBLANK0001/1: it ends before its size",
    ]);
    await truncate(node, 0);
    const moved = structuredClone(topology);
    Object.assign(moved.functions[0]!.controllers[0]!.namespaces[0]!, { device: "/dev/nvme99n1" });
    expect(facts(await gatherEvidence(scenario.kernel, moved, BLANK))).toEqual([
      "UNREADABLE RIGBLANK0001/1: cannot be read: ENOENT",
    ]);
  });

  test("has UNREADABLE if the kernel name moved to another disk after the listing", async () => {
    await using scenario = await recorded("kernel-bound");
    const topology = structuredClone(await listNvme(scenario.kernel));
    Object.assign(topology.functions[0]!.controllers[0]!.namespaces[0]!, { dev: "259:99" });
    expect(facts(await gatherEvidence(scenario.kernel, topology, BLANK))).toEqual([
      "UNREADABLE RIGBLANK0001/1: the kernel name moved to another disk meanwhile",
    ]);
  });

  test("has UNREADABLE without /proc, because the disk may be mounted", async () => {
    await using scenario = await recorded("kernel-bound");
    const without: Kernel = {
      ...scenario.kernel,
      read: async (path) => (path.startsWith("/proc/") ? undefined : scenario.kernel.read(path)),
    };
    expect(facts(await gatherEvidence(without, await listNvme(without), BLANK))).toEqual([
      "UNREADABLE 0000:00:04.0: mounts cannot be read",
    ]);
  });

  test("has NOT_READY if the controller is not live", async () => {
    await using scenario = await recorded("kernel-bound");
    const { functions } = await listNvme(scenario.kernel);
    const { name } = functions[0]!.controllers[0]!;
    await writeFile(join(scenario.folder.path, "sys/class/nvme", name, "state"), "resetting\n");
    expect(
      facts(await gatherEvidence(scenario.kernel, await listNvme(scenario.kernel), BLANK)),
    ).toEqual(["NOT_READY RIGBLANK0001: controller is resetting"]);
  });

  test("has NOT_ALLOWED for a disk that is not on the allow list", async () => {
    await using scenario = await recorded("kernel-bound");
    const allowed = ({ serial }: { serial: string }) => serial !== "RIGBLANK0001";
    const topology = await listNvme(scenario.kernel);
    const of = async (address: string) =>
      facts(await gatherEvidence(scenario.kernel, topology, address, { allowed }));
    expect(await of(BLANK)).toEqual(["NOT_ALLOWED RIGBLANK0001: not on the allow list"]);
    expect(await of(TWO_NAMESPACES)).toEqual([]);
  });

  test("does not depend on the kernel's numbering of devices", async () => {
    const [first, second] = [
      await evidenceIn("kernel-bound", DATA),
      await evidenceIn("no-iommu", DATA),
    ];
    expect(second.filter(({ kind }) => kind !== "NO_IOMMU")).toEqual(first);
  });
});

describe("an inspection", () => {
  test("holds the namespaces of its function exclusively until it is disposed", async () => {
    await using scenario = await recorded("kernel-bound");
    const topology = await listNvme(scenario.kernel);
    const [first] = topology.functions[1]!.controllers[0]!.namespaces;
    {
      await using observed = await inspectForClaim(scenario.kernel, topology, TWO_NAMESPACES);
      expect(observed.held).toHaveLength(2);
      expect(await scenario.kernel.openExclusive(first!.device)).toBeUndefined();
    }
    await using again = await scenario.kernel.openExclusive(first!.device);
    expect(again?.device).toBe(first!.device);
  });

  test("holds the namespaces of all functions of the group", async () => {
    await using scenario = await recorded("kernel-bound");
    const topology = await listNvme(scenario.kernel);
    await using observed = await inspectForClaim(scenario.kernel, topology, PAIR_A);
    expect(observed.held.map(({ device }) => device)).toHaveLength(2);
    expect(observed.evidence).toEqual([]);
  });

  test("finds what is open exclusively, which a look does not", async () => {
    await using scenario = await recorded("kernel-bound");
    const topology = await listNvme(scenario.kernel);
    const { device } = topology.functions[0]!.controllers[0]!.namespaces[0]!;
    await using user = await scenario.kernel.openExclusive(device);
    expect(user).toBeDefined();
    expect(await gatherEvidence(scenario.kernel, topology, BLANK)).toEqual([]);
    await using observed = await inspectForClaim(scenario.kernel, topology, BLANK);
    expect(facts(observed.evidence)).toEqual(["EXCLUSIVE_OPEN_REFUSED RIGBLANK0001/1: in use"]);
  });

  test("of an absent function is not blank", async () => {
    await using scenario = await recorded("kernel-bound");
    const topology = await listNvme(scenario.kernel);
    expect(blank(await gatherEvidence(scenario.kernel, topology, "0000:00:1e.0"))).toBe(false);
  });
});
