// A machine with an IOMMU, booted once: what the agent makes of drives on a real kernel.
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { ConditionStatus } from "../../src/gen/storagenode/v1/meta.ts";
import { until } from "../support/agent.ts";
import { admit, conditionOf, diskOf, settled } from "../support/drives.ts";
import { addressOf, blank, simulatedDisks, type EmulatedDrive, type Written } from "./drives.ts";
import {
  bindToVfio,
  blockDevice,
  deviceOf,
  driverOf,
  makeFileSystem,
  mount,
  override,
  plugInAgain,
  stackOn,
  swapOn,
  unplug,
} from "./guest-drives.ts";
import { guestNode, type GuestNode } from "./guest-node.ts";
import { controllerAt, evidenceOf } from "./seen.ts";
import { luksHeader, lvmPhysicalVolume, mdMember, partitionTable } from "./written.ts";

const MIB = 1024n * 1024n;
const small = (serial: string, slot: string, ...written: readonly Written[]): EmulatedDrive => ({
  ...blank(serial, slot, 64n * MIB),
  written,
});

const BLANK = blank("KTBLANK", "4");
const MOUNTED = small("KTMOUNTED", "5");
const PARTITIONED = small("KTPARTED", "6", partitionTable(MIB, 48n * MIB));
const SWAP = small("KTSWAP", "7");
const HELD = small("KTHELD", "8");
const SIGNED = small("KTSIGNED", "9");
const OVERRIDDEN = small("KTOVERRIDE", "10");
const TWO: EmulatedDrive = {
  serial: "KTTWO",
  slot: "11",
  namespaces: [{ sizeBytes: 512n * MIB }, { sizeBytes: 512n * MIB, blockSizeBytes: 4096 }],
};
const PAIR = [
  { ...blank("KTPAIRA", "12.0"), multifunction: true },
  blank("KTPAIRB", "12.1"),
] as const;
const CROWDED: EmulatedDrive = { ...blank("KTCROWDED", "13.0"), neighbour: true };
const ON_VFIO = blank("KTONVFIO", "14");
const WAITING = [
  { ...blank("KTWAITA", "15.0"), multifunction: true },
  blank("KTWAITB", "15.1"),
] as const;
const KILLED = blank("KTKILLED", "16");
/** The target answers an attach of it as of a drive that it cannot reach. */
const REFUSED = blank("KTREFUSED", "17");

const MD = small("KTMD", "18", mdMember());
const LVM = small("KTLVM", "19", lvmPhysicalVolume());
const LUKS = small("KTLUKS", "20", luksHeader());
const TINY = blank("KTTINY", "21", MIB);

const KNOWN = [BLANK, TWO, ...PAIR, CROWDED, ON_VFIO, ...WAITING, KILLED];
const USED = [MOUNTED, PARTITIONED, SWAP, HELD, SIGNED, OVERRIDDEN, MD, LVM, LUKS, TINY];

const HAS_REAL_TARGET = inject("guest").spdkTarget !== undefined;

const stack = new AsyncDisposableStack();
let node: GuestNode;

beforeAll(async () => {
  node = stack.use(
    await guestNode({
      drives: [...KNOWN, ...USED, REFUSED],
      disks: simulatedDisks(KNOWN),
      iommu: "on",
    }),
  );
  const { machine } = node;
  await mount(machine, MOUNTED);
  await swapOn(machine, SWAP);
  await stackOn(machine, HELD);
  await makeFileSystem(machine, SIGNED);
  await override(machine, OVERRIDDEN, "vfio-pci");
  await bindToVfio(machine, ON_VFIO);
  await node.startAgent();
  await settled(node, { KTBLANK: "DISK_STATE_DISCOVERED", KTSIGNED: "DISK_STATE_FOREIGN" });
});

afterAll(async () => await stack.disposeAsync());

describe("a drive in use, or with something on it", () => {
  it.each([
    ["mounted", MOUNTED, "MOUNTED", "DISK_STATE_IN_USE"],
    ["swapped on", SWAP, "SWAP", "DISK_STATE_IN_USE"],
    ["held by device mapper", HELD, "HOLDER", "DISK_STATE_IN_USE"],
    ["partitioned", PARTITIONED, "PARTITION_TABLE", "DISK_STATE_FOREIGN"],
    ["with a file system", SIGNED, "SIGNATURE", "DISK_STATE_FOREIGN"],
    ["of an md array", MD, "md RAID", "DISK_STATE_FOREIGN"],
    ["of a volume group", LVM, "LVM2", "DISK_STATE_FOREIGN"],
    ["encrypted", LUKS, "LUKS", "DISK_STATE_FOREIGN"],
  ] as const)("%s, is shown and not admitted", async (_, drive, kind, state) => {
    await until("it was looked at", async () => (await evidenceOf(node, drive)).includes(kind));
    expect(await diskOf(node, drive.serial)).toMatchObject({ state, driver: "nvme" });
    expect(await admit(node, drive.serial)).toMatchObject({
      details: expect.stringContaining(kind),
    });
    expect(await driverOf(node.machine, drive)).toBe("nvme");
  });

  it("whose driver somebody has chosen is left as it is", async () => {
    await until("it was looked at", async () =>
      (await evidenceOf(node, OVERRIDDEN)).includes("DRIVER_OVERRIDE"),
    );
    expect(await admit(node, OVERRIDDEN.serial)).toMatchObject({
      details: expect.stringContaining("DRIVER_OVERRIDE"),
    });
    expect(await node.machine.sh(`cat ${deviceOf(OVERRIDDEN)}/driver_override`)).toBe("vfio-pci");
    expect(await driverOf(node.machine, OVERRIDDEN)).toBe("nvme");
  });

  it("that is too small for a store is not taken once it is admitted", async () => {
    expect(await admit(node, TINY.serial)).toBe("OK");
    await until("it says so", async () => {
      const claimed = await conditionOf(node, TINY.serial, "Claimed");
      return claimed?.message.includes("DISK_TOO_SMALL") === true;
    });
    expect(await driverOf(node.machine, TINY)).toBe("nvme");
    expect(await node.machine.sh(`cat ${deviceOf(TINY)}/driver_override`)).toBe("(null)");
  });

  it("in a group with another device that has a driver is not taken", async () => {
    await until("it was looked at", async () =>
      (await evidenceOf(node, CROWDED)).includes("IOMMU_GROUP_SHARED"),
    );
    expect(await admit(node, CROWDED.serial)).toMatchObject({
      details: expect.stringContaining("IOMMU_GROUP_SHARED"),
    });
    expect(await driverOf(node.machine, CROWDED)).toBe("nvme");
  });
});

describe("a claim", () => {
  it("of a blank drive binds it to vfio-pci", async () => {
    expect(await admit(node, BLANK.serial)).toBe("OK");
    await settled(node, { KTBLANK: "DISK_STATE_UP" });
    expect(await diskOf(node, BLANK.serial)).toMatchObject({
      driver: "vfio-pci",
      originalDriver: "nvme",
    });
    expect(await driverOf(node.machine, BLANK)).toBe("vfio-pci");
    expect(await blockDevice(node.machine, BLANK)).toBe("");
    const group = await node.machine.sh(`basename "$(readlink ${deviceOf(BLANK)}/iommu_group)"`);
    expect((await node.machine.sh("ls /dev/vfio")).split("\n")).toContain(group);
  });

  it("of one namespace takes the other one of its controller along once that is admitted", async () => {
    expect(await admit(node, TWO.serial)).toBe("OK");
    await settled(node, { KTTWO: "DISK_STATE_UP" });
    expect(await admit(node, TWO.serial, 2)).toBe("OK");
    await until("the second one is UP", async () => {
      return (await diskOf(node, TWO.serial, 2))?.state === "DISK_STATE_UP";
    });
    expect((await diskOf(node, TWO.serial))?.state).toBe("DISK_STATE_UP");
  });

  it("waits until every drive of an IOMMU group is admitted", async () => {
    const [first, second] = PAIR;
    expect(await admit(node, first.serial)).toBe("OK");
    await until("it says for whom it waits", async () => {
      const claimed = await conditionOf(node, first.serial, "Claimed");
      return claimed?.message.includes(addressOf(second)) === true;
    });
    expect(await driverOf(node.machine, first)).toBe("nvme");
    expect(await admit(node, second.serial)).toBe("OK");
    await settled(node, { KTPAIRA: "DISK_STATE_UP", KTPAIRB: "DISK_STATE_UP" });
  });

  it("is not made of a drive that got a file system after its admission", async () => {
    const [first, second] = WAITING;
    expect(await admit(node, first.serial)).toBe("OK");
    await makeFileSystem(node.machine, first);
    // It would be taken with the first one.
    expect(await admit(node, second.serial)).toMatchObject({
      details: expect.stringContaining(`SIGNATURE ${first.serial}`),
    });
    await until("the admission has ended", async () => {
      return (
        (await conditionOf(node, first.serial, "Admitted"))?.status ===
        ConditionStatus.CONDITION_STATUS_FALSE
      );
    });
    await until("it shows why", async () => (await evidenceOf(node, first)).includes("SIGNATURE"));
    expect(await driverOf(node.machine, first)).toBe("nvme");
    expect(await driverOf(node.machine, second)).toBe("nvme");
    const device = await blockDevice(node.machine, first);
    await node.machine.sh(`mkdir -p /mnt/first && mount -t ext4 ${device} /mnt/first`);
  });

  it("goes on after the agent was killed between the kernel's driver and vfio-pci", async () => {
    const overridden = `[ "$(cat ${deviceOf(KILLED)}/driver_override)" = vfio-pci ]`;
    const killed = node.machine.sh(
      `end=$(( $(date +%s) + 60 ))
       until ${overridden}; do [ $(date +%s) -lt $end ] || exit 1; done
       kill -9 $(cat /run/agent.pid)`,
    );
    // The agent may be gone before it has answered.
    await admit(node, KILLED.serial);
    await killed;
    await node.startAgent();
    await settled(node, { KTKILLED: "DISK_STATE_UP", KTBLANK: "DISK_STATE_UP" });
    expect(await driverOf(node.machine, KILLED)).toBe("vfio-pci");
  });

  it.skipIf(HAS_REAL_TARGET)(
    "that the target refuses for good gives the drive back to the kernel",
    async () => {
      expect(await admit(node, REFUSED.serial)).toBe("OK");
      await settled(node, { KTREFUSED: "DISK_STATE_FAILED" });
      await until("the kernel has it again", async () => {
        return (await blockDevice(node.machine, REFUSED)) !== "";
      });
      expect(await driverOf(node.machine, REFUSED)).toBe("nvme");
      expect(await node.machine.sh(`cat ${deviceOf(REFUSED)}/driver_override`)).toBe("(null)");
      expect(await controllerAt(node, REFUSED)).toMatchObject({
        state: "FAILED",
        stateReason: expect.stringContaining("-19"),
      });
    },
  );
});

describe("a drive that is on vfio-pci before the agent starts", () => {
  it("is left alone while another process has its group open", async () => {
    const group = await node.machine.sh(`basename "$(readlink ${deviceOf(ON_VFIO)}/iommu_group)"`);
    const holder = await node.machine.sh(
      `node -e 'fs.openSync("/dev/vfio/${group}", "r+"); setInterval(() => {}, 1000)' \
         >/dev/null 2>&1 </dev/null & echo $!`,
    );
    await node.machine.sh(
      `until ls -l /proc/${holder}/fd | grep -q /dev/vfio/${group}; do usleep 50000; done`,
    );
    expect(await admit(node, "", 1, addressOf(ON_VFIO))).toMatchObject({
      details: expect.stringContaining("VFIO_IN_USE"),
    });
    await node.machine.sh(`kill -9 ${holder}; while [ -e /proc/${holder} ]; do usleep 10000; done`);
    expect(await driverOf(node.machine, ON_VFIO)).toBe("vfio-pci");
  });

  it("is handed back, looked at and taken when a call names its address", async () => {
    expect(await controllerAt(node, ON_VFIO)).toMatchObject({ state: "UNIDENTIFIED", diskIds: [] });
    expect(await admit(node, "", 1, addressOf(ON_VFIO))).toBe("OK");
    await settled(node, { KTONVFIO: "DISK_STATE_UP" });
  });
});

describe("a drive that is unplugged", () => {
  it("is MISSING until it is plugged in again", async () => {
    await unplug(node.machine, SIGNED);
    await settled(node, { KTSIGNED: "DISK_STATE_MISSING" });
    await plugInAgain(node.machine);
    await settled(node, { KTSIGNED: "DISK_STATE_FOREIGN" });
    await until("it was looked at", async () =>
      (await evidenceOf(node, SIGNED)).includes("SIGNATURE"),
    );
    expect(await driverOf(node.machine, SIGNED)).toBe("nvme");
  });
});

it("has lost nothing that was on a drive", async () => {
  expect(await node.machine.sh(`cat /mnt/${MOUNTED.serial}/file`)).toBe("kept");
  expect(await node.machine.sh("grep -c nvme /proc/swaps")).toBe("1");
  expect(await node.machine.sh("dmsetup status held")).toContain("linear");
});
