// A machine with an IOMMU, booted once: which drive is which, on a real kernel. Drives that look the same,
// that have two controllers, that are pulled out, replaced and put back.
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { ConditionStatus } from "../../src/gen/storagenode/v1/meta.ts";
import { call, until } from "../support/agent.ts";
import { admit, conditionOf, diskOf, settled } from "../support/drives.ts";
import { getLvol, idOf, provision, stateOf } from "../support/volumes.ts";
import { addressOf, blank, pluggable, simulatedDisks, type EmulatedDrive } from "./drives.ts";
import {
  blockDevice,
  deviceOf,
  driverOf,
  plugIn,
  pullOut,
  showIdentifiers,
} from "./guest-drives.ts";
import { guestNode, type GuestNode } from "./guest-node.ts";
import { controllerAt, diskIdOf, evidenceOf, isAttached, isReady } from "./seen.ts";

const MIB = 1024n * 1024n;
const VOLUME = { sizeBytes: 64n * MIB };

/** Each with a subsystem of its own, as the kernel rejects two controllers with one number in one. */
const TWINS = [
  { ...blank("KTTWIN", "4"), name: "twin-a", subsystem: "nqn-twin-a" },
  { ...blank("KTTWIN", "5"), name: "twin-b", subsystem: "nqn-twin-b" },
] as const;
const REJECTED = [
  { ...blank("KTREJECTED", "6"), name: "rejected-a" },
  { ...blank("KTREJECTED", "7"), name: "rejected-b" },
] as const;
const PORTS: readonly [EmulatedDrive, EmulatedDrive] = [
  { ...blank("KTPORTS", "8"), name: "port-a", subsystem: "nqn-ports" },
  { ...blank("KTPORTS", "9"), name: "port-b", subsystem: "nqn-ports", namespaces: [] },
];
const numbered = (name: string, slot: string, eui64: bigint): EmulatedDrive => ({
  ...blank("KTEUI", slot),
  name,
  subsystem: `nqn-${name}`,
  namespaces: [{ sizeBytes: 512n * MIB, eui64 }],
});
const NUMBERED = [
  numbered("eui-a", "10", 0x5254_0000_0000_000an),
  numbered("eui-b", "11", 0x5254_0000_0000_000bn),
] as const;
const DOUBLED = pluggable("KTDOUBLED", 1);
const DOUBLE = pluggable("KTDOUBLED", 2, { name: "double", isAway: true });
const PULLED = pluggable("KTPULLED", 3);
const NEW = pluggable("KTNEW", 3, { isAway: true });

const DRIVES = [...TWINS, ...REJECTED, ...PORTS, ...NUMBERED, DOUBLED, DOUBLE, PULLED, NEW];

const stack = new AsyncDisposableStack();
let node: GuestNode;

beforeAll(async () => {
  node = stack.use(await guestNode({ drives: DRIVES, disks: simulatedDisks(DRIVES), iommu: "on" }));
  await node.machine.sh(`echo 1 >${deviceOf(NUMBERED[1])}/remove`);
  await showIdentifiers(node.machine, NUMBERED[0]);
  await node.startAgent();
  await settled(node, { KTPULLED: "DISK_STATE_DISCOVERED", KTEUI: "DISK_STATE_DISCOVERED" });
});

afterAll(async () => await stack.disposeAsync());

async function isUp(id: string): Promise<boolean> {
  return stateOf(await getLvol(node, id)) === "LVOL_STATE_UP";
}

/** A volume on the disk with the serial; its id. */
async function volumeOn(serial: string): Promise<string> {
  const diskId = await diskIdOf(node, serial);
  const id = idOf(await provision(node, { ...VOLUME, diskId }));
  await until("the volume is UP", async () => await isUp(id));
  return id;
}

async function isInConflict(serial: string): Promise<boolean> {
  const conflict = await conditionOf(node, serial, "Conflict");
  return conflict?.status === ConditionStatus.CONDITION_STATUS_TRUE;
}

describe("of two drives that look the same", () => {
  it("none is taken, and both are named", async () => {
    await settled(node, { KTTWIN: "DISK_STATE_CONFLICT" });
    const refused = await admit(node, "KTTWIN");
    for (const twin of TWINS) {
      expect(refused).toMatchObject({ details: expect.stringContaining(addressOf(twin)) });
      expect(await driverOf(node.machine, twin)).toBe("nvme");
    }
  });

  it("in one subsystem the kernel rejects one, which is listed with the reason", async () => {
    const seen = await Promise.all(REJECTED.map(async (drive) => await controllerAt(node, drive)));
    expect(new Set(seen.map((one) => one?.state))).toEqual(new Set(["AVAILABLE", "REJECTED"]));
    const rejected = seen.find((one) => one?.state === "REJECTED");
    expect(rejected).toMatchObject({ stateReason: expect.stringContaining("dmesg"), diskIds: [] });
  });

  it("the one that is in use stays in use, also over a restart of the target", async () => {
    expect(await admit(node, DOUBLED.serial)).toBe("OK");
    await settled(node, { KTDOUBLED: "DISK_STATE_UP" });
    const volume = await volumeOn(DOUBLED.serial);
    await plugIn(node.machine, DOUBLE);
    await until("both are seen", async () => await isInConflict(DOUBLED.serial));
    expect(await diskOf(node, DOUBLED.serial)).toMatchObject({
      state: "DISK_STATE_UP",
      address: addressOf(DOUBLED),
    });
    await node.machine.sh("kill -9 $(cat /run/target.pid)");
    await until("the volume is away", async () => !(await isUp(volume)));
    await node.startTarget();
    await until("the volume is UP again", async () => await isUp(volume));
    expect(await driverOf(node.machine, DOUBLED)).toBe("vfio-pci");
    expect(await driverOf(node.machine, DOUBLE)).toBe("nvme");
    await pullOut(node.machine, DOUBLE);
    await until("one is left", async () => !(await isInConflict(DOUBLED.serial)));
    expect(await isUp(volume)).toBe(true);
  });
});

describe("a drive with two controllers", () => {
  it("is taken with both of them", async () => {
    expect(await admit(node, "KTPORTS")).toBe("OK");
    await settled(node, { KTPORTS: "DISK_STATE_UP" });
    for (const port of PORTS) expect(await driverOf(node.machine, port)).toBe("vfio-pci");
    expect(await blockDevice(node.machine, PORTS[0])).toBe("");
    const seen = await Promise.all(PORTS.map(async (port) => await controllerAt(node, port)));
    expect(seen.map((one) => one?.state)).toEqual(["ATTACHED", "CLAIMED"]);
    expect(await node.detaches()).toBe(0);
  });
});

describe("a drive with another EUI64 than its serial had", () => {
  it("is another one, and is not taken", async () => {
    const [known, other] = NUMBERED;
    await node.machine.sh(
      `echo 1 >${deviceOf(known)}/remove; echo 1 >/sys/bus/pci/rescan
       echo 1 >${deviceOf(known)}/remove`,
    );
    await settled(node, { KTEUI: "DISK_STATE_CONFLICT" });
    expect(await admit(node, other.serial)).toMatchObject({
      details: expect.stringMatching(/DUPLICATE_SERIAL.*EUI64/),
    });
    expect(await driverOf(node.machine, other)).toBe("nvme");
  });
});

describe("a drive that is pulled out while it is in use", () => {
  it("is MISSING until it is back, with its volumes", async () => {
    expect(await admit(node, PULLED.serial)).toBe("OK");
    await settled(node, { KTPULLED: "DISK_STATE_UP" });
    const volume = await volumeOn(PULLED.serial);
    await pullOut(node.machine, PULLED);
    await settled(node, { KTPULLED: "DISK_STATE_MISSING" });
    expect(stateOf(await getLvol(node, volume))).toBe("LVOL_STATE_DEGRADED");
    await plugIn(node.machine, PULLED);
    await settled(node, { KTPULLED: "DISK_STATE_UP" });
    await until("the volume is UP again", async () => await isUp(volume));
  });

  it("stays MISSING while another one is in its slot, which is taken and left alone", async () => {
    await pullOut(node.machine, PULLED);
    await settled(node, { KTPULLED: "DISK_STATE_MISSING" });
    await plugIn(node.machine, NEW);
    await settled(node, { KTNEW: "DISK_STATE_DISCOVERED" });
    expect(await evidenceOf(node, NEW)).toBe("");
    expect(await admit(node, NEW.serial)).toBe("OK");
    await settled(node, { KTNEW: "DISK_STATE_UP" });
    const volume = await volumeOn(NEW.serial);
    await node.machine.sh("kill -9 $(cat /run/agent.pid)");
    await node.startAgent();
    await isReady(node);
    await settled(node, { KTNEW: "DISK_STATE_UP", KTPULLED: "DISK_STATE_MISSING" });
    await until("the volume is UP", async () => await isUp(volume));
    await isAttached(node, NEW);
    expect(await controllerAt(node, NEW)).toMatchObject({ stateReason: "" });
    expect(await node.detaches()).toBe(0);
  });
});

describe("a drive that is released with a volume on it", () => {
  it("is shown by the kernel with its store, and taken again with its volume", async () => {
    const volume = await volumeOn(NEW.serial);
    const { client } = node;
    const diskId = await diskIdOf(node, NEW.serial);
    const forced = { force: true, reason: "it moves", waitTimeout: { seconds: 60n, nanos: 0 } };
    const request = { diskId, serial: NEW.serial, ...forced };
    const { disk } = await call(client, client.releaseDisk.bind(client), request);
    expect(disk?.status?.state).toBe("DISK_STATE_RELEASED");
    expect(await driverOf(node.machine, NEW)).toBe("nvme");
    const device = await blockDevice(node.machine, NEW);
    expect(device).toMatch(/^\/dev\/nvme/);
    // The simulated target keeps the bytes of drives to itself.
    if (inject("guest").spdkTarget !== undefined) {
      expect(await node.machine.sh(`head -c 8 ${device}`)).toBe("SPDKBLOB");
    }
    expect(stateOf(await getLvol(node, volume))).toBe("LVOL_STATE_DEGRADED");
    expect(await admit(node, NEW.serial)).toBe("OK");
    await until("the volume is UP again", async () => await isUp(volume));
    expect(await driverOf(node.machine, NEW)).toBe("vfio-pci");
  });
});
