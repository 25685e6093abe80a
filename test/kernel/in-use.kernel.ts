// A machine with an IOMMU, booted once: what is in use is left alone, on a real kernel, whoever uses it; and
// what the policy `auto` takes.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { until } from "../support/agent.ts";
import { admit, diskOf, settled } from "../support/drives.ts";
import { getLvol, idOf, provision, stateOf } from "../support/volumes.ts";
import { addressOf, blank, pluggable, simulatedDisks, type EmulatedDrive } from "./drives.ts";
import {
  bindToVfio,
  blockDevice,
  callTarget,
  driverOf,
  makeFileSystem,
  mount,
  plugIn,
} from "./guest-drives.ts";
import { guestNode, type GuestNode } from "./guest-node.ts";
import { controllerAt, diskIdOf, evidenceOf, isAttached, isReady } from "./seen.ts";

const MIB = 1024n * 1024n;
const two = (serial: string, slot: string): EmulatedDrive => ({
  ...blank(serial, slot),
  namespaces: [{ sizeBytes: 512n * MIB }, { sizeBytes: 512n * MIB }],
});

const MOUNTED = two("KTMOUNTED", "4");
const LIVE = two("KTLIVE", "5");
const BY_HAND = blank("KTBYHAND", "6");
const AUTO = blank("KTAUTO", "7");
const WIPED = blank("KTAUTOWIPED", "8");
const LATER = pluggable("KTAUTOLATER", 1, { isAway: true });

const DRIVES = [MOUNTED, LIVE, BY_HAND, AUTO, WIPED, LATER];

const SETTINGS = {
  STORAGE_NODE_DISK_POLICY: "auto",
  STORAGE_NODE_DISK_ALLOW: "serial:KTAUTO*",
  STORAGE_NODE_DISK_SETTLE: "3",
};

const stack = new AsyncDisposableStack();
let node: GuestNode;

beforeAll(async () => {
  node = stack.use(await guestNode({ drives: DRIVES, disks: simulatedDisks(DRIVES), iommu: "on" }));
  const { machine } = node;
  await mount(machine, MOUNTED);
  await makeFileSystem(machine, WIPED);
  await bindToVfio(machine, BY_HAND);
  await callTarget(machine, "bdev_nvme_attach_controller", {
    name: "by-hand",
    trtype: "PCIe",
    traddr: addressOf(BY_HAND),
  });
  await node.startAgent(SETTINGS);
  await settled(node, { KTLIVE: "DISK_STATE_DISCOVERED" });
});

afterAll(async () => await stack.disposeAsync());

describe("the policy auto", () => {
  it("takes what is blank and on its list", async () => {
    await settled(node, { KTAUTO: "DISK_STATE_UP" });
    expect((await diskOf(node, LIVE.serial))?.state).toBe("DISK_STATE_DISCOVERED");
    expect(await driverOf(node.machine, LIVE)).toBe("nvme");
  });

  it("does not take what had something on it since the agent started", async () => {
    await until("it was looked at", async () =>
      (await evidenceOf(node, WIPED)).includes("SIGNATURE"),
    );
    const device = await blockDevice(node.machine, WIPED);
    await node.machine.sh(`dd if=/dev/zero of=${device} bs=1M count=512 conv=fsync`);
    await until("it looks blank", async () => (await evidenceOf(node, WIPED)) === "");
    // Another one is found after that, and has settled in the end.
    await plugIn(node.machine, LATER);
    await settled(node, { KTAUTOLATER: "DISK_STATE_UP", KTAUTOWIPED: "DISK_STATE_DISCOVERED" });
    expect(await driverOf(node.machine, WIPED)).toBe("nvme");
    expect(await admit(node, WIPED.serial)).toBe("OK");
    await settled(node, { KTAUTOWIPED: "DISK_STATE_UP" });
  });
});

describe("a drive with two namespaces", () => {
  it("is left alone while one is mounted, whichever is admitted", async () => {
    for (const nsid of [1, 2]) {
      await until("it was looked at", async () =>
        (await evidenceOf(node, MOUNTED, nsid)).includes("MOUNTED KTMOUNTED/1"),
      );
      expect(await admit(node, MOUNTED.serial, nsid)).toMatchObject({
        details: expect.stringContaining("MOUNTED KTMOUNTED/1"),
      });
    }
    expect(await driverOf(node.machine, MOUNTED)).toBe("nvme");
    expect(await node.machine.sh(`cat /mnt/${MOUNTED.serial}/file`)).toBe("kept");
  });
});

describe("a drive that somebody has attached in the target", () => {
  it("stays attached, whatever is on it", async () => {
    await isAttached(node, BY_HAND);
    const attached = await callTarget(node.machine, "bdev_nvme_get_controllers", {});
    expect(attached).toContain("by-hand");
    expect(await driverOf(node.machine, BY_HAND)).toBe("vfio-pci");
    expect(await node.detaches()).toBe(0);
  });
});

describe("a controller whose first namespace has volumes", () => {
  it("is not let go for the second one, which nobody has looked at since", async () => {
    const { machine } = node;
    expect(await admit(node, LIVE.serial)).toBe("OK");
    await settled(node, { KTLIVE: "DISK_STATE_UP" });
    const diskId = await diskIdOf(node, LIVE.serial);
    const id = idOf(await provision(node, { sizeBytes: 64n * MIB, diskId }));
    const isUp = async () => stateOf(await getLvol(node, id)) === "LVOL_STATE_UP";
    await until("the volume is UP", isUp);
    // Not with -9, at which QEMU 7.2 itself may die: its drives have requests in flight then.
    await machine.sh(
      "pid=$(cat /run/target.pid); kill $pid; while [ -e /proc/$pid ]; do usleep 50000; done",
    );
    await until("the volume is away", async () => !(await isUp()));
    // Blank in the claim that this agent holds; the next one has no claim, and cannot format it.
    expect(await admit(node, LIVE.serial, 2)).toBe("OK");
    await machine.sh("kill -9 $(cat /run/agent.pid)");
    await node.startTarget();
    await node.startAgent(SETTINGS);
    await isReady(node);
    await settled(node, { KTLIVE: "DISK_STATE_UP" });
    await until("the volume is UP again", isUp);
    await isAttached(node, LIVE);
    expect((await diskOf(node, LIVE.serial, 2))?.state).not.toBe("DISK_STATE_UP");
    expect(await controllerAt(node, LIVE)).toMatchObject({ stateReason: "" });
    expect(await node.detaches()).toBe(0);
    expect(await driverOf(machine, LIVE)).toBe("vfio-pci");
  });
});
