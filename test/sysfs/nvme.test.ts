import { describe, expect, test } from "vitest";
import { openKernel } from "../../src/sysfs/kernel.ts";
import { listNvme, type NvmeTopology } from "../../src/sysfs/nvme.ts";
import { materialise, RECORDED_STATES, type RecordedState } from "../support/materialise.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const MIB = 1024n * 1024n;

async function listed(state: RecordedState): Promise<NvmeTopology> {
  await using folder = await temporaryFolder();
  await materialise(state, folder.path);
  return await listNvme(openKernel(folder.path));
}

/** "serial/nsid MiB blockSize" of every namespace of a PCI function, sorted, without duplicates. */
function disks(topology: NvmeTopology): readonly string[] {
  const namespaces = topology.functions.flatMap(({ controllers }) =>
    controllers.flatMap((controller) => controller.namespaces),
  );
  const lines = namespaces.map(
    ({ serial, nsid, sizeBytes, blockSizeBytes }) =>
      `${serial}/${nsid} ${sizeBytes / MIB} ${blockSizeBytes}`,
  );
  return [...new Set(lines)].toSorted();
}

const BLANK = "RIGBLANK0001/1 1024 512";
const OTHERS = [
  "RIGDATA00001/1 256 512",
  "RIGHELD00001/1 64 512",
  "RIGPAIRB0001/1 64 512",
  "RIGTWONS0001/1 128 512",
  "RIGTWONS0001/2 256 4096",
];
const PAIR_A = "RIGPAIRA0001/1 64 512";
const ALL = [BLANK, ...OTHERS, PAIR_A].toSorted();
const WITHOUT_BLANK = [...OTHERS, PAIR_A].toSorted();

const SHOWN: Record<RecordedState, readonly string[]> = {
  "kernel-bound": ALL,
  "vfio-loaded": ALL,
  unbound: WITHOUT_BLANK,
  "vfio-bound": WITHOUT_BLANK,
  "vfio-bound-shared-group": OTHERS,
  "no-iommu": ALL,
  "no-iommu-bind-failed": WITHOUT_BLANK,
  "noiommu-mode": WITHOUT_BLANK,
  multipath: [BLANK, "RIGMP0000001/1 64 512"],
  "nvme-tcp": ALL,
};

describe("the NVMe listing", () => {
  test.each(RECORDED_STATES)("finds exactly the disks of %s, by serial", async (state) => {
    expect(disks(await listed(state))).toEqual(SHOWN[state]);
  });

  test.each(RECORDED_STATES)("never loses the function of a disk in %s", async (state) => {
    const { functions } = await listed(state);
    const addresses = functions.map(({ pciAddress }) => pciAddress);
    const rig = ["04.0", "05.0", "06.0", "07.0", "08.0", "08.1"];
    const expected = state === "multipath" ? ["04.0", "09.0", "10.0"] : rig;
    expect(addresses).toEqual(expected.map((slot) => `0000:00:${slot}`));
  });

  test("shows whether a function has no driver, vfio-pci or nvme", async () => {
    const blank = async (state: RecordedState) => {
      const { functions } = await listed(state);
      const { driver, driverOverride, controllers } = functions[0]!;
      return { driver, driverOverride, controllers: controllers.length };
    };
    expect(await blank("kernel-bound")).toEqual({
      driver: "nvme",
      driverOverride: undefined,
      controllers: 1,
    });
    expect(await blank("unbound")).toEqual({
      driver: undefined,
      driverOverride: "vfio-pci",
      controllers: 0,
    });
    expect(await blank("vfio-bound")).toEqual({
      driver: "vfio-pci",
      driverOverride: "vfio-pci",
      controllers: 0,
    });
  });

  test("names every function of an IOMMU group with its driver", async () => {
    const { functions } = await listed("vfio-bound-shared-group");
    const pair = functions.filter(({ iommuGroup }) => iommuGroup === "6");
    expect(pair).toHaveLength(2);
    for (const { groupFunctions } of pair) {
      expect(groupFunctions).toEqual([
        { address: "0000:00:08.0", driver: "vfio-pci" },
        { address: "0000:00:08.1", driver: "nvme" },
      ]);
    }
  });

  test.each(["no-iommu", "no-iommu-bind-failed", "noiommu-mode"] as const)(
    "sees no IOMMU group in %s",
    async (state) => {
      const { functions } = await listed(state);
      expect(functions.map(({ iommuGroup }) => iommuGroup)).toEqual(functions.map(() => undefined));
    },
  );

  test("shows partitions, holders and device numbers", async () => {
    const { functions } = await listed("kernel-bound");
    const of = (address: string) =>
      functions.find(({ pciAddress }) => pciAddress === address)!.controllers[0]!.namespaces[0]!;
    const data = of("0000:00:06.0");
    expect(data.partitions.map(({ number, kernelName }) => [number, kernelName])).toEqual([
      [1, `${data.kernelName}p1`],
      [2, `${data.kernelName}p2`],
    ]);
    expect(data.dev).toMatch(/^259:\d+$/);
    expect(of("0000:00:07.0").holders).toEqual(["dm-0"]);
    expect(of("0000:00:04.0")).toMatchObject({ holders: [], partitions: [], transport: "PCIe" });
  });

  test("shows the head device under both controllers of a subsystem", async () => {
    const { functions } = await listed("multipath");
    const heads = functions
      .filter(({ pciAddress }) => pciAddress !== "0000:00:04.0")
      .map(({ controllers }) => controllers[0]!.namespaces);
    expect(heads).toHaveLength(2);
    for (const namespaces of heads) {
      expect(namespaces).toMatchObject([
        { kernelName: "nvme1n1", dev: "259:1", controllers: ["nvme1", "nvme2"] },
      ]);
    }
  });

  test("shows an NVMe/TCP namespace, but under no PCI function", async () => {
    const { functions, fabrics } = await listed("nvme-tcp");
    expect(fabrics).toMatchObject([
      { transport: "TCP", namespaces: [{ kernelName: "nvme6n1", serial: "RIGVOL0", nsid: 1 }] },
    ]);
    const local = functions.flatMap(({ controllers }) => controllers.map(({ serial }) => serial));
    expect(local).not.toContain("RIGVOL0");
  });

  test("is empty without /sys", async () => {
    await using folder = await temporaryFolder();
    expect(await listNvme(openKernel(folder.path))).toEqual({ functions: [], fabrics: [] });
  });
});
