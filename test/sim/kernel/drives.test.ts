// What the simulated machine can have: drives that share namespaces, look the same, are bound to
// vfio-pci from the start, or are not driven by the kernel.
import { expect, test } from "vitest";
import { closeGroup, openGroup } from "../../../src/sim/kernel/vfio-users.ts";
import { listNvme } from "../../../src/sysfs/nvme.ts";
import {
  A,
  B,
  claim,
  drive,
  functionAt,
  kernelScenario,
  stateOf,
} from "../../support/kernel-scenario.ts";

test("two controllers of one subsystem share a namespace, which stays while one of them is bound", async () => {
  const ports = [A, B].map((address, index) => ({
    ...drive(address, "DUAL", `${index}`),
    subsystem: "dual",
  }));
  await using scenario = await kernelScenario({ drives: ports });
  const namespaces = async () => {
    const { functions } = await listNvme(scenario.kernel);
    return functions.flatMap(({ controllers }) => controllers.flatMap((one) => one.namespaces));
  };
  const [first, second] = await namespaces();
  expect(second?.kernelName).toBe(first?.kernelName);
  expect(first?.controllers).toHaveLength(2);
  await scenario.kernel.write("/sys/bus/pci/drivers/nvme/unbind", A);
  const left = await namespaces();
  expect(left.map(({ kernelName }) => kernelName)).toEqual([first?.kernelName]);
  expect(left[0]?.controllers).toHaveLength(1);
});

test("a drive has the NGUID and EUI64 that it was given, and none by default", async () => {
  const named = {
    ...drive(A, "SIMA", "2"),
    namespaces: [
      {
        sizeBytes: 64n * 1024n ** 2n,
        nguid: "0123456789abcdef0123456789abcdef",
        eui64: "0123456789abcdef",
      },
    ],
  };
  await using scenario = await kernelScenario({ drives: [named, drive(B, "SIMB", "3")] });
  const of = async (address: string) =>
    (await functionAt(scenario.kernel, address)).controllers[0]?.namespaces[0];
  expect(await of(A)).toMatchObject({
    nguid: named.namespaces[0]?.nguid,
    eui64: "0123456789abcdef",
  });
  expect(await of(B)).toMatchObject({ nguid: undefined, eui64: undefined });
});

test("a drive may be bound to vfio-pci when it is plugged in, overridden to nothing, or rejected", async () => {
  const drives = [
    { ...drive(A, "SIMA", "2"), driver: "vfio-pci" as const },
    { ...drive(B, "SIMB", "3"), driverOverride: "none" },
    { ...drive("0000:00:06.0", "SIMC", "4"), rejected: true },
  ];
  await using scenario = await kernelScenario({ drives });
  expect(await stateOf(scenario.kernel, A)).toMatchObject({ driver: "vfio-pci", serials: [] });
  expect(await stateOf(scenario.kernel, B)).toMatchObject({
    driver: undefined,
    driverOverride: "none",
  });
  const rejected = "0000:00:06.0";
  await scenario.kernel.write("/sys/bus/pci/drivers_probe", rejected);
  expect(await stateOf(scenario.kernel, rejected)).toMatchObject({ driver: undefined });
});

test("a drive that is pulled out makes room for another one in its slot, under the kernel's driver", async () => {
  await using scenario = await kernelScenario();
  expect(await claim(scenario.kernel, A)).toMatchObject({ ok: true });
  await scenario.kernel.unplug(A);
  await scenario.kernel.plugIn(drive(A, "OTHER", "2"));
  expect(await stateOf(scenario.kernel, A)).toEqual({
    driver: "nvme",
    driverOverride: undefined,
    serials: ["OTHER"],
  });
});

test("two drives may show one serial and have their own contents", async () => {
  const bytes = [{ at: 0n, data: Buffer.from("twin") }];
  const twin = {
    ...drive(B, "SIMA", "3"),
    id: "twin",
    namespaces: [{ sizeBytes: 64n * 1024n ** 2n, bytes }],
  };
  await using scenario = await kernelScenario({ drives: [drive(A, "SIMA", "2"), twin] });
  const first = async (address: string) => {
    const device = (await functionAt(scenario.kernel, address)).controllers[0]?.namespaces[0]
      ?.device;
    return Buffer.from(await scenario.kernel.readBlocks(device ?? "", 0n, 4)).toString("latin1");
  };
  expect(await stateOf(scenario.kernel, B)).toMatchObject({ serials: ["SIMA"] });
  expect(await first(A)).toBe("\0\0\0\0");
  expect(await first(B)).toBe("twin");
});

test("/proc shows which process has a vfio group open, as long as it lives", async () => {
  await using scenario = await kernelScenario();
  const fds = async (pid: number) => {
    const names = await scenario.kernel.list(`/proc/${pid}/fd`);
    const links = names.map(
      async (name) => await scenario.kernel.readLink(`/proc/${pid}/fd/${name}`),
    );
    return await Promise.all(links);
  };
  openGroup(scenario.root, "2", { pid: process.pid, command: "qemu" });
  expect(await fds(process.pid)).toEqual(["/dev/vfio/2"]);
  expect(await scenario.kernel.read(`/proc/${process.pid}/comm`)).toBe("qemu");
  closeGroup(scenario.root, "2", process.pid);
  expect(await fds(process.pid)).toEqual([]);
  const gone = 2 ** 22 + 1;
  openGroup(scenario.root, "2", { pid: gone, command: "qemu" });
  expect(await fds(gone)).toEqual([]);
});
