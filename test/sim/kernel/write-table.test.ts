// Writes to sysfs driver files of the simulated kernel: effects and errors as recorded on real
// ones.
import { access, readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { buildKernelTree, loadVfioPci } from "../../../src/sim/kernel/build-tree.ts";
import { closeGroup, openGroup } from "../../../src/sim/kernel/vfio-users.ts";
import { openSimulatedKernel } from "../../../src/sim/kernel/simulated-kernel.ts";
import { putToUse } from "../../../src/sim/kernel/use.ts";
import { openTree } from "../../../src/sim/kernel/tree.ts";
import type { Kernel } from "../../../src/sysfs/kernel.ts";
import {
  A,
  B,
  drive,
  functionAt,
  kernelScenario,
  stateOf,
  TWO_DRIVES,
} from "../../support/kernel-scenario.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

const PCI = "/sys/bus/pci";
const NVME = `${PCI}/drivers/nvme`;
const VFIO = `${PCI}/drivers/vfio-pci`;
const OVERRIDE = `${PCI}/devices/${A}/driver_override`;
const PROBE = `${PCI}/drivers_probe`;

/** Writes the text; returns "ok" or the errno. */
async function answer(kernel: Kernel, path: string, text: string): Promise<string> {
  try {
    await kernel.write(path, text);
    return "ok";
  } catch (error) {
    return error instanceof Error && "code" in error ? String(error.code) : String(error);
  }
}

async function shown(kernel: Kernel, address: string) {
  return (await stateOf(kernel, address)).serials;
}

describe("unbind", () => {
  test.each([`${NVME}/unbind`, `${PCI}/devices/${A}/driver/unbind`])(
    "through %s removes controller, block devices and nodes before it returns",
    async (path) => {
      await using scenario = await kernelScenario();
      const [controller] = (await functionAt(scenario.kernel, A)).controllers;
      const { name, namespaces } = controller!;
      expect(await answer(scenario.kernel, path, A)).toBe("ok");
      expect(await stateOf(scenario.kernel, A)).toMatchObject({ driver: undefined, serials: [] });
      const remaining = await Promise.all(
        ["/dev", "/sys/block", "/sys/class/block", "/sys/class/nvme", NVME].map(
          async (folder) => await scenario.kernel.list(folder),
        ),
      );
      expect(remaining.flat()).not.toContain(namespaces[0]!.kernelName);
      expect(remaining.flat()).not.toContain(name);
      expect(remaining.flat()).not.toContain(A);
      expect(await scenario.kernel.list(`${PCI}/devices/${A}/nvme`)).toEqual([]);
    },
  );

  test("is not refused for a drive that is mounted or open", async () => {
    await using scenario = await kernelScenario();
    await putToUse(
      openTree(scenario.root),
      { address: A },
      { nsid: 1, partition: 0 },
      {
        kind: "mount",
        at: "/mnt",
      },
    );
    await using open = await scenario.kernel.openExclusive(
      (await functionAt(scenario.kernel, B)).controllers[0]!.namespaces[0]!.device,
    );
    expect(open).toBeDefined();
    expect(await answer(scenario.kernel, `${NVME}/unbind`, A)).toBe("ok");
    expect(await answer(scenario.kernel, `${NVME}/unbind`, B)).toBe("ok");
    expect(await scenario.kernel.list("/sys/block")).toEqual([]);
  });

  test("of a function not bound to this driver, or that does not exist, is ENODEV", async () => {
    await using scenario = await kernelScenario();
    expect(await answer(scenario.kernel, `${VFIO}/unbind`, A)).toBe("ENODEV");
    expect(await answer(scenario.kernel, `${NVME}/unbind`, "0000:00:1e.0")).toBe("ENODEV");
    expect(await shown(scenario.kernel, A)).toEqual(["SIMA"]);
  });

  test("through the driver link of a function without a driver is ENOENT", async () => {
    await using scenario = await kernelScenario();
    await scenario.kernel.write(`${NVME}/unbind`, A);
    const path = `${PCI}/devices/${A}/driver/unbind`;
    expect(await answer(scenario.kernel, path, A)).toBe("ENOENT");
  });

  test("from vfio-pci is not refused while the group is open, and returns once it is closed", async () => {
    await using scenario = await kernelScenario();
    await claimByHand(scenario.kernel);
    openGroup(scenario.root, "2", { pid: process.pid, command: "reactor_0" });
    const answered = answer(scenario.kernel, `${VFIO}/unbind`, A);
    // Whatever else is written meanwhile takes effect.
    expect(await answer(scenario.kernel, `${NVME}/unbind`, B)).toBe("ok");
    expect(await stateOf(scenario.kernel, A)).toMatchObject({ driver: "vfio-pci" });
    closeGroup(scenario.root, "2", process.pid);
    expect(await answered).toBe("ok");
    expect(await stateOf(scenario.kernel, A)).toMatchObject({ driver: undefined });
  });
});

describe("driver_override", () => {
  test("is (null) when unset and takes any name, loaded or not", async () => {
    await using scenario = await kernelScenario({ ...TWO_DRIVES, vfioPci: false });
    const raw = async () => await readFile(join(scenario.root, OVERRIDE), "latin1");
    expect(await raw()).toBe("(null)\n");
    for (const name of ["vfio-pci", "nonsense"]) {
      expect(await answer(scenario.kernel, OVERRIDE, name)).toBe("ok");
      expect(await raw()).toBe(`${name}\n`);
    }
    expect(await answer(scenario.kernel, OVERRIDE, "\n")).toBe("ok");
    expect(await raw()).toBe("(null)\n");
    expect(await answer(scenario.kernel, OVERRIDE, "x".repeat(5000))).toBe("EINVAL");
    expect(await raw()).toBe("(null)\n");
  });

  test("is not changed by an empty text, which Kernel.write refuses with a RangeError", async () => {
    await using scenario = await kernelScenario();
    await scenario.kernel.write(OVERRIDE, "vfio-pci");
    await expect(scenario.kernel.write(OVERRIDE, "")).rejects.toThrow(RangeError);
    expect(await scenario.kernel.read(OVERRIDE)).toBe("vfio-pci");
  });

  test("survives unbind and probe", async () => {
    await using scenario = await kernelScenario();
    await claimByHand(scenario.kernel);
    await scenario.kernel.write(`${VFIO}/unbind`, A);
    await scenario.kernel.write(PROBE, A);
    expect(await stateOf(scenario.kernel, A)).toMatchObject({
      driver: "vfio-pci",
      driverOverride: "vfio-pci",
    });
  });
});

describe("drivers_probe", () => {
  test("succeeds when no driver matches, and when the probe fails", async () => {
    await using scenario = await kernelScenario();
    await scenario.kernel.write(OVERRIDE, "nonsense");
    await scenario.kernel.write(`${NVME}/unbind`, A);
    expect(await answer(scenario.kernel, PROBE, A)).toBe("ok");
    expect(await stateOf(scenario.kernel, A)).toMatchObject({ driver: undefined });

    await using bare = await kernelScenario({ ...TWO_DRIVES, iommu: false });
    await bare.kernel.write(OVERRIDE, "vfio-pci");
    await bare.kernel.write(`${NVME}/unbind`, A);
    expect(await answer(bare.kernel, PROBE, A)).toBe("ok");
    expect(await stateOf(bare.kernel, A)).toMatchObject({ driver: undefined });
  });

  test("of a bound function succeeds and changes nothing", async () => {
    await using scenario = await kernelScenario();
    await scenario.kernel.write(OVERRIDE, "vfio-pci");
    expect(await answer(scenario.kernel, PROBE, A)).toBe("ok");
    expect(await stateOf(scenario.kernel, A)).toMatchObject({ driver: "nvme", serials: ["SIMA"] });
  });

  test("of an address that does not exist is ENODEV", async () => {
    await using scenario = await kernelScenario();
    expect(await answer(scenario.kernel, PROBE, "0000:00:1e.0")).toBe("ENODEV");
  });
});

describe("drivers/vfio-pci/bind", () => {
  test("is complete when it returns: /dev/vfio/<group> exists", async () => {
    await using scenario = await kernelScenario();
    await scenario.kernel.write(OVERRIDE, "vfio-pci");
    await scenario.kernel.write(`${NVME}/unbind`, A);
    expect(await answer(scenario.kernel, `${VFIO}/bind`, A)).toBe("ok");
    expect(await scenario.kernel.list("/dev/vfio")).toEqual(["2", "vfio"]);
    expect(await scenario.kernel.list("/sys/class/vfio")).toEqual(["2"]);
    expect(await scenario.kernel.list(`${PCI}/devices/${A}/vfio-dev`)).toEqual(["vfio0"]);
  });

  test("of a bound function is EBUSY", async () => {
    await using scenario = await kernelScenario();
    await claimByHand(scenario.kernel);
    expect(await answer(scenario.kernel, `${VFIO}/bind`, A)).toBe("EBUSY");
  });

  test("without a matching override or id is ENODEV", async () => {
    await using scenario = await kernelScenario();
    await scenario.kernel.write(`${NVME}/unbind`, A);
    expect(await answer(scenario.kernel, `${VFIO}/bind`, A)).toBe("ENODEV");
  });

  test("without an IOMMU is EINVAL", async () => {
    await using scenario = await kernelScenario({ ...TWO_DRIVES, iommu: false });
    await scenario.kernel.write(OVERRIDE, "vfio-pci");
    await scenario.kernel.write(`${NVME}/unbind`, A);
    expect(await answer(scenario.kernel, `${VFIO}/bind`, A)).toBe("EINVAL");
    expect(await stateOf(scenario.kernel, A)).toMatchObject({ driver: undefined });
  });

  test("without the module is ENOENT", async () => {
    await using scenario = await kernelScenario({ ...TWO_DRIVES, vfioPci: false });
    expect(await answer(scenario.kernel, `${VFIO}/bind`, A)).toBe("ENOENT");
  });
});

describe("drivers/nvme/bind", () => {
  test("is ENODEV while bound to another driver or overridden to one", async () => {
    await using scenario = await kernelScenario();
    await claimByHand(scenario.kernel);
    expect(await answer(scenario.kernel, `${NVME}/bind`, A)).toBe("ENODEV");
    await scenario.kernel.write(OVERRIDE, "\n");
    expect(await answer(scenario.kernel, `${NVME}/bind`, A)).toBe("ENODEV");
    await scenario.kernel.write(OVERRIDE, "vfio-pci");
    await scenario.kernel.write(`${VFIO}/unbind`, A);
    expect(await answer(scenario.kernel, `${NVME}/bind`, A)).toBe("ENODEV");
  });

  test("is EBUSY while an open vfio group holds another function of the group", async () => {
    const pair = { drives: [drive(A, "SIMA", "2"), drive(B, "SIMB", "2")] };
    await using scenario = await kernelScenario(pair);
    await scenario.kernel.write(`${NVME}/unbind`, B);
    await claimByHand(scenario.kernel);
    openGroup(scenario.root, "2", { pid: process.pid, command: "reactor_0" });
    expect(await answer(scenario.kernel, `${NVME}/bind`, B)).toBe("EBUSY");
    expect(await answer(scenario.kernel, PROBE, B)).toBe("ok");
    expect(await stateOf(scenario.kernel, B)).toMatchObject({ driver: undefined });
  });

  test("returns before the block devices appear", async () => {
    await using folder = await temporaryFolder();
    await buildKernelTree(folder.path, TWO_DRIVES);
    await using kernel = await openSimulatedKernel(folder.path, { appearMs: 200 });
    await kernel.write(`${NVME}/unbind`, A);
    await kernel.write(`${NVME}/bind`, A);
    const early = await functionAt(kernel, A);
    expect(early).toMatchObject({
      driver: "nvme",
      controllers: [{ state: "connecting", namespaces: [] }],
    });
    await expect.poll(async () => await shown(kernel, A), { timeout: 10_000 }).toEqual(["SIMA"]);
    const state = async () => (await functionAt(kernel, A)).controllers[0]?.state;
    await expect.poll(state, { timeout: 10_000 }).toBe("live");
  });

  test("numbers the drives in the order they are bound", async () => {
    await using scenario = await kernelScenario();
    const before = await names(scenario.kernel);
    for (const address of [A, B]) await scenario.kernel.write(`${NVME}/unbind`, address);
    for (const address of [B, A]) {
      await scenario.kernel.write(`${NVME}/bind`, address);
      await expect.poll(async () => (await shown(scenario.kernel, address)).length).toBe(1);
    }
    expect(await names(scenario.kernel)).toEqual({ [A]: before[B], [B]: before[A] });
  });

  test("does not reuse a device number that a stale mount refers to", async () => {
    await using scenario = await kernelScenario();
    const before = await names(scenario.kernel);
    const place = { nsid: 1, partition: 0 };
    const use = { kind: "mount", at: "/mnt" } as const;
    await putToUse(openTree(scenario.root), { address: A }, place, use);
    await scenario.kernel.write(`${NVME}/unbind`, A);
    await scenario.kernel.write(`${NVME}/bind`, A);
    await expect.poll(async () => (await shown(scenario.kernel, A)).length).toBe(1);
    expect((await names(scenario.kernel))[A]).not.toBe(before[A]);
  });
});

describe("new_id", () => {
  test("binds every driverless function with those ids, until remove_id", async () => {
    await using scenario = await kernelScenario();
    await scenario.kernel.write(`${NVME}/unbind`, A);
    expect(await answer(scenario.kernel, `${VFIO}/new_id`, "1b36 0010")).toBe("ok");
    // nvme also matches and is tried first, as on a machine where it is built in.
    expect(await stateOf(scenario.kernel, A)).toMatchObject({ driver: "nvme" });
    await scenario.kernel.write(`${NVME}/unbind`, A);
    expect(await answer(scenario.kernel, `${VFIO}/bind`, A)).toBe("ok");
    expect(await answer(scenario.kernel, `${VFIO}/new_id`, "1b36 0010")).toBe("EEXIST");
    expect(await answer(scenario.kernel, `${VFIO}/new_id`, "nonsense")).toBe("EINVAL");
    expect(await answer(scenario.kernel, `${VFIO}/remove_id`, "1b36 0010")).toBe("ok");
    expect(await answer(scenario.kernel, `${VFIO}/remove_id`, "1b36 0010")).toBe("ENODEV");
  });
});

describe("loading vfio-pci", () => {
  test("binds every driverless function that has the override, and no other", async () => {
    await using scenario = await kernelScenario({ ...TWO_DRIVES, vfioPci: false });
    for (const address of [A, B]) await scenario.kernel.write(`${NVME}/unbind`, address);
    await scenario.kernel.write(OVERRIDE, "vfio-pci");
    await scenario.kernel.write(`${PCI}/devices/${B}/driver_override`, "nonsense");
    await loadVfioPci(scenario.root);
    expect(await stateOf(scenario.kernel, A)).toMatchObject({ driver: "vfio-pci" });
    expect(await stateOf(scenario.kernel, B)).toMatchObject({ driver: undefined });
  });
});

describe("one function of a group on vfio-pci", () => {
  test("has a group node although the group is not viable", async () => {
    const pair = { drives: [drive(A, "SIMA", "2"), drive(B, "SIMB", "2")] };
    await using scenario = await kernelScenario(pair);
    await claimByHand(scenario.kernel);
    await expect(access(join(scenario.root, "dev/vfio/2"))).resolves.toBeUndefined();
    expect((await functionAt(scenario.kernel, A)).groupFunctions).toEqual([
      { address: A, driver: "vfio-pci" },
      { address: B, driver: "nvme" },
    ]);
  });
});

test("a write to any other file, or to a missing one, fails and changes nothing", async () => {
  await using scenario = await kernelScenario();
  expect(await answer(scenario.kernel, `${PCI}/devices/${A}/class`, "0x0")).toBe("EACCES");
  expect(await answer(scenario.kernel, `${PCI}/devices/${A}/nothing`, "0")).toBe("ENOENT");
  expect(await scenario.kernel.read(`${PCI}/devices/${A}/class`)).toBe("0x010802");
});

async function claimByHand(kernel: Kernel): Promise<void> {
  await kernel.write(OVERRIDE, "vfio-pci");
  await kernel.write(`${NVME}/unbind`, A);
  await kernel.write(PROBE, A);
}

async function names(kernel: Kernel): Promise<Record<string, string | undefined>> {
  const of = async (address: string) =>
    (await functionAt(kernel, address)).controllers[0]?.namespaces[0]?.kernelName;
  return { [A]: await of(A), [B]: await of(B) };
}
