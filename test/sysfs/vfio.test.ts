import { describe, expect, test } from "vitest";
import { buildKernelTree } from "../../src/sim/kernel/build-tree.ts";
import { closeGroup, openGroup } from "../../src/sim/kernel/vfio-users.ts";
import { openSimulatedKernel } from "../../src/sim/kernel/simulated-kernel.ts";
import { gatherEvidence, inspectForClaim, inspectForProbe } from "../../src/sysfs/disk-evidence.ts";
import type { Kernel } from "../../src/sysfs/kernel.ts";
import { listNvme } from "../../src/sysfs/nvme.ts";
import { claimFunctions, probeAgain, releaseFunctions } from "../../src/sysfs/vfio.ts";
import {
  A,
  B,
  claim,
  drive,
  kernelScenario,
  MIB,
  stateOf,
  TWO_DRIVES,
} from "../support/kernel-scenario.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const ON_NVME = { driver: "nvme", driverOverride: undefined, serials: ["SIMA"] };
const ON_VFIO = { driver: "vfio-pci", driverOverride: "vfio-pci", serials: [] };

const release = async (kernel: Kernel, address: string, driver: string | undefined) =>
  await releaseFunctions(kernel, [{ address, driver }]);

const OVERRIDE = `/sys/bus/pci/devices/${A}/driver_override`;

describe("a claim", () => {
  test("moves a drive to vfio-pci, and its release returns it to its driver", async () => {
    await using scenario = await kernelScenario();
    expect(await claim(scenario.kernel, A)).toEqual({ ok: true });
    expect(await stateOf(scenario.kernel, A)).toEqual(ON_VFIO);
    expect(await scenario.kernel.list("/dev/vfio")).toEqual(["2", "vfio"]);
    expect(await stateOf(scenario.kernel, B)).toMatchObject({ driver: "nvme", serials: ["SIMB"] });

    const back = await release(scenario.kernel, A, "nvme");
    expect(back).toMatchObject({ ok: true, appeared: [expect.stringMatching(/^nvme\d+n1$/)] });
    expect(await stateOf(scenario.kernel, A)).toEqual(ON_NVME);
    expect(await scenario.kernel.list("/dev/vfio")).toEqual(["vfio"]);
    expect(await gatherEvidence(scenario.kernel, await listNvme(scenario.kernel), A)).toEqual([]);
  });

  test("of a drive that is bound to vfio-pci already changes nothing", async () => {
    await using scenario = await kernelScenario();
    await claim(scenario.kernel, A);
    expect(await claim(scenario.kernel, A)).toEqual({ ok: true });
    expect(await stateOf(scenario.kernel, A)).toEqual(ON_VFIO);
  });

  test("leaves the disks of other drives held", async () => {
    await using scenario = await kernelScenario();
    await using other = await inspectForClaim(scenario.kernel, await listNvme(scenario.kernel), B);
    expect(await claim(scenario.kernel, A)).toMatchObject({ ok: true });
    expect(await scenario.kernel.openExclusive(other.held[0]!.device)).toBeUndefined();
  });

  test("closes the disk after the kernel driver is unbound, not before", async () => {
    await using scenario = await kernelScenario();
    await using observed = await inspectForClaim(
      scenario.kernel,
      await listNvme(scenario.kernel),
      A,
    );
    const [held] = observed.held;
    const heldAt: (readonly [string, boolean])[] = [];
    const watched: Kernel = {
      ...scenario.kernel,
      write: async (path, text) => {
        const readable = await held!.read(0n, 512).then(
          () => true,
          () => false,
        );
        heldAt.push([path.slice(path.lastIndexOf("/") + 1), readable]);
        await scenario.kernel.write(path, text);
      },
    };
    await claimFunctions(watched, [A], { heldDescriptors: observed.held });
    expect(heldAt).toEqual([
      ["driver_override", true],
      ["unbind", true],
      ["drivers_probe", false],
    ]);
  });

  test("is refused while one namespace of the drive is not held", async () => {
    const two = { ...drive(A, "SIMA", "2"), namespaces: [{ sizeBytes: MIB }, { sizeBytes: MIB }] };
    await using scenario = await kernelScenario({ drives: [two] });
    await using observed = await inspectForClaim(
      scenario.kernel,
      await listNvme(scenario.kernel),
      A,
    );
    const heldDescriptors = observed.held.slice(0, 1);
    expect(await claimFunctions(scenario.kernel, [A], { heldDescriptors })).toMatchObject({
      ok: false,
      reason: "NOT_HELD",
    });
    expect(await stateOf(scenario.kernel, A)).toMatchObject({ driver: "nvme" });
  });

  test("is refused if a held device has another number than the namespace of that name", async () => {
    await using scenario = await kernelScenario();
    await using observed = await inspectForClaim(
      scenario.kernel,
      await listNvme(scenario.kernel),
      A,
    );
    const heldDescriptors = observed.held.map((held) => ({ ...held, dev: "259:77" }));
    expect(await claimFunctions(scenario.kernel, [A], { heldDescriptors })).toMatchObject({
      ok: false,
      reason: "NOT_HELD",
    });
  });

  test.each([
    ["NO_IOMMU", { ...TWO_DRIVES, iommu: false }],
    ["VFIO_PCI_NOT_LOADED", { ...TWO_DRIVES, vfioPci: false }],
    ["NO_HUGEPAGES", { ...TWO_DRIVES, hugepages: 0 }],
    ["IOMMU_GROUP_SHARED", { drives: [drive(A, "SIMA", "2"), drive(B, "SIMB", "2")] }],
    [
      "IOMMU_GROUP_SHARED",
      {
        drives: [drive(A, "SIMA", "2")],
        others: [{ address: "0000:00:04.1", class: "0x010601", driver: "ahci", iommuGroup: "2" }],
      },
    ],
  ] as const)("is refused with %s before any write", async (reason, spec) => {
    await using scenario = await kernelScenario(spec);
    expect(await claim(scenario.kernel, A)).toMatchObject({ ok: false, reason });
    expect(await stateOf(scenario.kernel, A)).toEqual(ON_NVME);
  });

  test("is possible if the other functions of the group have no driver or a harmless one", async () => {
    await using scenario = await kernelScenario({
      drives: [drive(A, "SIMA", "2")],
      others: [
        { address: "0000:00:04.1", class: "0x060400", driver: "pcieport", iommuGroup: "2" },
        { address: "0000:00:04.2", class: "0x010601", iommuGroup: "2" },
      ],
    });
    expect(await claim(scenario.kernel, A)).toMatchObject({ ok: true });
  });

  test("of an absent function, or of one with another driver, is refused", async () => {
    await using scenario = await kernelScenario({
      drives: [],
      others: [{ address: A, class: "0x010802", driver: "uio_pci_generic", iommuGroup: "2" }],
    });
    const none = { heldDescriptors: [] };
    expect(await claimFunctions(scenario.kernel, ["0000:00:1e.0"], none)).toMatchObject({
      ok: false,
      reason: "NO_SUCH_FUNCTION",
    });
    expect(await claimFunctions(scenario.kernel, [A], none)).toMatchObject({
      ok: false,
      reason: "OTHER_DRIVER",
      detail: `${A} has driver uio_pci_generic`,
    });
    expect(await release(scenario.kernel, A, "nvme")).toMatchObject({
      ok: false,
      reason: "OTHER_DRIVER",
    });
  });

  test("that vfio-pci refuses releases the drive and reports the errno", async () => {
    await using scenario = await kernelScenario();
    const blind: Kernel = {
      ...scenario.kernel,
      // The function has an IOMMU group, but vfio-pci refuses to bind it.
      write: async (path, text) => {
        if (text === A && path === "/sys/bus/pci/drivers_probe") {
          const override = await scenario.kernel.read(OVERRIDE);
          if (override === "vfio-pci") return;
        }
        if (path === "/sys/bus/pci/drivers/vfio-pci/bind") {
          throw Object.assign(new Error("EINVAL"), { code: "EINVAL" });
        }
        await scenario.kernel.write(path, text);
      },
    };
    expect(await claim(blind, A)).toEqual({
      ok: false,
      reason: "BIND_FAILED",
      detail: `vfio-pci did not bind ${A}: EINVAL`,
    });
    expect(await stateOf(scenario.kernel, A)).toEqual(ON_NVME);
  });

  test("without a /dev/vfio node for the group releases the drive", async () => {
    await using scenario = await kernelScenario();
    const blind: Kernel = {
      ...scenario.kernel,
      list: async (path) => (path === "/dev/vfio" ? [] : await scenario.kernel.list(path)),
    };
    expect(await claim(blind, A)).toMatchObject({ ok: false, reason: "NO_GROUP_NODE" });
    expect(await stateOf(scenario.kernel, A)).toEqual(ON_NVME);
  });
});

describe("the functions of one IOMMU group", () => {
  const pair = { drives: [drive(A, "SIMA", "2"), drive(B, "SIMB", "2")] };

  test("are claimed together, with the disks of all of them held, and given back together", async () => {
    await using scenario = await kernelScenario(pair);
    const writes = await writesOf(async (kernel) => {
      expect(await claim(kernel, A, [B])).toEqual({ ok: true });
    }, scenario.kernel);
    const last = writes.map((path) => path.slice(path.lastIndexOf("/") + 1));
    expect(last).toEqual([
      "driver_override",
      "driver_override",
      "unbind",
      "unbind",
      "drivers_probe",
      "drivers_probe",
    ]);
    expect(await stateOf(scenario.kernel, B)).toEqual(ON_VFIO);
    const returns = [A, B].map((address) => ({ address, driver: "nvme" }));
    expect(await releaseFunctions(scenario.kernel, returns)).toMatchObject({ ok: true });
    expect(await stateOf(scenario.kernel, A)).toEqual(ON_NVME);
    expect(await stateOf(scenario.kernel, B)).toMatchObject({ driver: "nvme", serials: ["SIMB"] });
  });

  test("are all back at their drivers when one of them cannot be claimed", async () => {
    await using scenario = await kernelScenario(pair);
    const refusing: Kernel = {
      ...scenario.kernel,
      write: async (path, text) => {
        const isBind = path === "/sys/bus/pci/drivers_probe" || path.endsWith("vfio-pci/bind");
        const isVfio = (await scenario.kernel.read(OVERRIDE)) === "vfio-pci";
        if (isBind && isVfio && text === B) {
          throw Object.assign(new Error("EINVAL"), { code: "EINVAL" });
        }
        await scenario.kernel.write(path, text);
      },
    };
    expect(await claim(refusing, A, [B])).toMatchObject({ ok: false, reason: "BIND_FAILED" });
    expect(await stateOf(scenario.kernel, A)).toEqual(ON_NVME);
    expect(await stateOf(scenario.kernel, B)).toMatchObject({ driver: "nvme" });
  });
});

describe("a driver_override that somebody has set", () => {
  test("refuses a claim, and is not overwritten", async () => {
    const pinned = { ...drive(A, "SIMA", "2"), driverOverride: "nvme" };
    await using scenario = await kernelScenario({ drives: [pinned] });
    expect(await claim(scenario.kernel, A)).toMatchObject({ ok: false, reason: "DRIVER_OVERRIDE" });
    expect(await stateOf(scenario.kernel, A)).toEqual({ ...ON_NVME, driverOverride: "nvme" });
  });
});

describe("an unbind that does not return", () => {
  test("is given up after a while, not tried again meanwhile, and has its effect later", async () => {
    await using scenario = await kernelScenario();
    await claim(scenario.kernel, A);
    openGroup(scenario.root, "2", { pid: process.pid, command: "qemu" });
    const back = [{ address: A, driver: "nvme" }];
    const given = await releaseFunctions(scenario.kernel, back, { unbindMs: 1 });
    expect(given).toMatchObject({ ok: false, reason: "UNBIND_FAILED" });
    expect(await release(scenario.kernel, A, "nvme")).toMatchObject({ reason: "UNBIND_FAILED" });
    closeGroup(scenario.root, "2", process.pid);
    const driver = async () => (await stateOf(scenario.kernel, A)).driver;
    await expect.poll(driver).toBeUndefined();
    expect(await release(scenario.kernel, A, "nvme")).toMatchObject({ ok: true });
  });
});

describe("a release", () => {
  test("may be repeated", async () => {
    await using scenario = await kernelScenario();
    await claim(scenario.kernel, A);
    await release(scenario.kernel, A, "nvme");
    expect(await release(scenario.kernel, A, "nvme")).toMatchObject({ ok: true });
    expect(await stateOf(scenario.kernel, A)).toEqual(ON_NVME);
  });

  test("to no driver leaves a drive without one, and never unbinds nvme", async () => {
    await using scenario = await kernelScenario();
    await claim(scenario.kernel, A);
    expect(await release(scenario.kernel, A, undefined)).toEqual({
      ok: true,
      appeared: [],
    });
    expect(await stateOf(scenario.kernel, A)).toEqual({
      driver: undefined,
      driverOverride: undefined,
      serials: [],
    });
    expect(await release(scenario.kernel, B, undefined)).toMatchObject({ ok: false });
    expect(await stateOf(scenario.kernel, B)).toMatchObject({ driver: "nvme" });
  });

  test("reports why the driver did not bind it", async () => {
    await using scenario = await kernelScenario();
    await claim(scenario.kernel, A);
    expect(await release(scenario.kernel, A, "nothing-of-the-kind")).toEqual({
      ok: false,
      reason: "BIND_FAILED",
      detail: `${A} is bound to driver nvme, not to nothing-of-the-kind`,
    });
  });

  test("of an absent function is refused", async () => {
    await using scenario = await kernelScenario();
    expect(await release(scenario.kernel, "0000:00:1e.0", "nvme")).toMatchObject({
      ok: false,
      reason: "NO_SUCH_FUNCTION",
    });
  });
});

class Died extends Error {}

/** A kernel whose agent dies at write number `index`, before or after the kernel executes it. */
function dyingAt(kernel: Kernel, index: number, when: "before" | "after"): Kernel {
  let writes = 0;
  const write = async (path: string, text: string) => {
    writes += 1;
    // Fail all later writes too: a dead agent makes no clean-up writes.
    if (writes > index || (writes === index && when === "before")) throw new Died();
    await kernel.write(path, text);
    if (writes === index) throw new Died();
  };
  return { ...kernel, write };
}

async function writesOf(act: (kernel: Kernel) => Promise<unknown>, kernel: Kernel) {
  const paths: string[] = [];
  const write = async (path: string, text: string) => {
    paths.push(path);
    await kernel.write(path, text);
  };
  await act({ ...kernel, write });
  return paths;
}

const claimA = async (kernel: Kernel) => await claim(kernel, A);
const releaseA = async (kernel: Kernel) => await release(kernel, A, "nvme");

describe("an agent that dies in the middle", () => {
  test("can do so at three writes of a claim and at three of a release", async () => {
    await using scenario = await kernelScenario();
    expect(await writesOf(claimA, scenario.kernel)).toEqual([
      OVERRIDE,
      `/sys/bus/pci/devices/${A}/driver/unbind`,
      "/sys/bus/pci/drivers_probe",
    ]);
    expect(await writesOf(releaseA, scenario.kernel)).toEqual([
      OVERRIDE,
      `/sys/bus/pci/devices/${A}/driver/unbind`,
      "/sys/bus/pci/drivers_probe",
    ]);
  });

  const places = [1, 2, 3].flatMap((index) =>
    (["before", "after"] as const).map((when) => ({ index, when })),
  );

  test.each(places)(
    "in a claim, $when write $index, leaves a drive that can be claimed or released",
    async (at) => {
      for (const finish of [claimA, releaseA]) {
        await using folder = await temporaryFolder();
        await buildKernelTree(folder.path, TWO_DRIVES);
        {
          await using kernel = await openSimulatedKernel(folder.path, { appearMs: 5 });
          const failed = claimA(dyingAt(kernel, at.index, at.when)).catch(
            (error: unknown) => error,
          );
          expect(await failed).not.toMatchObject({ ok: true });
        }
        await using kernel = await openSimulatedKernel(folder.path, { appearMs: 5 });
        expect(await finish(kernel)).toMatchObject({ ok: true });
        expect(await stateOf(kernel, A)).toEqual(finish === claimA ? ON_VFIO : ON_NVME);
        expect(await stateOf(kernel, B)).toMatchObject({ driver: "nvme", serials: ["SIMB"] });
      }
    },
  );

  test.each(places)(
    "in a release, $when write $index, leaves a release that can be repeated",
    async (at) => {
      await using scenario = await kernelScenario();
      await claimA(scenario.kernel);
      await releaseA(dyingAt(scenario.kernel, at.index, at.when)).catch(() => {});
      expect(await releaseA(scenario.kernel)).toMatchObject({ ok: true });
      expect(await stateOf(scenario.kernel, A)).toEqual(ON_NVME);
    },
  );
});

describe("a new probe", () => {
  test("of one drive of a group holds the namespaces of that one until its driver is unbound", async () => {
    const drives = [drive(A, "SIMA", "2"), drive(B, "SIMB", "2")];
    await using scenario = await kernelScenario({ drives });
    const { kernel } = scenario;
    await using inspection = await inspectForProbe(kernel, await listNvme(kernel), [A]);
    const [held, ...others] = inspection.held;
    expect(others).toEqual([]);
    const heldAt: (readonly [string, boolean])[] = [];
    const watched: Kernel = {
      ...kernel,
      write: async (path, text) => {
        const readable = await held!.read(0n, 512).then(
          () => true,
          () => false,
        );
        heldAt.push([path.slice(path.lastIndexOf("/") + 1), readable]);
        await kernel.write(path, text);
      },
    };
    const probed = await probeAgain(watched, [A], { heldDescriptors: inspection.held });
    expect(probed).toMatchObject({ ok: true });
    expect(heldAt).toEqual([
      ["unbind", true],
      ["drivers_probe", false],
    ]);
    expect(await stateOf(kernel, A)).toEqual(ON_NVME);
  });

  test("is refused while a namespace is not held", async () => {
    await using scenario = await kernelScenario();
    const { kernel } = scenario;
    const unchanged: Kernel = {
      ...kernel,
      write: () => Promise.reject(new Error("it is not to be changed")),
    };
    expect(await probeAgain(unchanged, [A], { heldDescriptors: [] })).toMatchObject({
      ok: false,
      reason: "NOT_HELD",
    });
  });
});
