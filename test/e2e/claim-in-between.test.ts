// What the agent sees of functions that are taken together while it takes them: a claim lasts for a second
// on a real machine, and the kernel is listed meanwhile.
import { expect, it, vi } from "vitest";
import { call, until, type TestAgent } from "../support/agent.ts";
import {
  admit,
  controllersOf,
  diskIdOf,
  diskOf,
  driverAt,
  drive,
  nodeWithDrives,
  settled,
} from "../support/drives.ts";
import { REAL_SOCKET } from "../support/target.ts";

const FIRST = drive(1);
const SECOND = { ...drive(2), serial: "SER1", id: "SER1" };
const PORTS = [FIRST, SECOND].map((port) => ({ ...port, subsystem: "dual" }));
const OTHER = drive(3);

const MANUAL = { STORAGE_NODE_DISK_POLICY: "manual" };
const GROUP = [drive(1), drive(2)].map((one) => ({ ...one, iommuGroup: "7" }));
const [LOW = "", HIGH = ""] = GROUP.map(({ address }) => address);

/** The state that it has in the answer. */
async function release(agent: TestAgent, serial: string, seconds: number) {
  const { client } = agent;
  const waitTimeout = { seconds: BigInt(seconds), nanos: 0 };
  const diskId = await diskIdOf(agent, serial);
  const asked = { diskId, serial, force: false, reason: "", waitTimeout };
  return (await call(client, client.releaseDisk.bind(client), asked)).disk?.status?.state;
}

const ALLOW = { STORAGE_NODE_DISK_ALLOW: "serial:SER1" };

it.skipIf(REAL_SOCKET !== undefined)(
  "a look at a half made claim gives nothing back once the claim is made",
  async () => {
    await using node = await nodeWithDrives({ drives: [...PORTS, OTHER] });
    const agent = await node.start({ ...ALLOW, STORAGE_NODE_DISK_POLICY: "manual" });
    await settled(agent, { SER1: "DISK_STATE_DISCOVERED", SER3: "DISK_STATE_DISCOVERED" });
    const { kernel } = node.kernel;
    const { write } = kernel;
    const unbinds: string[] = [];
    vi.spyOn(kernel, "write").mockImplementation(async (path, text) => {
      if (path.endsWith("/driver/unbind")) unbinds.push(text);
      // The first one has no driver now, the second one has the kernel's, and both are overridden. A call
      // lists all of them.
      if (path.endsWith("/driver/unbind") && text === SECOND.address) await admit(agent, "SER3");
      await write(path, text);
    });
    expect(await admit(agent, "SER1")).toBe("OK");
    await settled(agent, { SER1: "DISK_STATE_UP", SER3: "DISK_STATE_UP" });
    expect(unbinds.toSorted()).toEqual([FIRST, SECOND, OTHER].map(({ address }) => address));
    expect(await driverAt(node, SECOND.address)).toBe("vfio-pci");
    const states = (await controllersOf(agent)).map(({ state }) => state);
    expect(states).toEqual(["ATTACHED", "CLAIMED", "ATTACHED"]);
  },
);

it.skipIf(REAL_SOCKET !== undefined)(
  "a look that began before the claim, and ended long after it, takes nothing back",
  async () => {
    await using node = await nodeWithDrives({ drives: [...PORTS, OTHER] });
    const { kernel } = node.kernel;
    const { list } = kernel;
    const [held, goesOn] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    let next: "listing" | undefined;
    vi.spyOn(kernel, "list").mockImplementation(async (path) => {
      const isHeld = path === "/sys/kernel/iommu_groups/3/devices" && next === "listing";
      if (isHeld) {
        next = undefined;
        held.resolve();
        await goesOn.promise;
      }
      return await list(path);
    });
    const agent = await node.start({ ...ALLOW, STORAGE_NODE_DISK_POLICY: "manual" });
    await settled(agent, { SER1: "DISK_STATE_DISCOVERED", SER3: "DISK_STATE_DISCOVERED" });
    next = "listing";
    const late = admit(agent, "SER3");
    await held.promise;
    expect(await admit(agent, "SER1")).toBe("OK");
    await settled(agent, { SER1: "DISK_STATE_UP" });
    goesOn.resolve();
    expect(await late).toBe("OK");
    await settled(agent, { SER3: "DISK_STATE_UP" });
    const states = (await controllersOf(agent)).map(({ state }) => state);
    expect(states).toEqual(["ATTACHED", "CLAIMED", "ATTACHED"]);
  },
);

it.skipIf(REAL_SOCKET !== undefined)(
  "a look at a disk while it is claimed itself does not end its admission",
  async () => {
    await using node = await nodeWithDrives({ drives: [OTHER] });
    const allow = { STORAGE_NODE_DISK_ALLOW: "serial:SER3" };
    const agent = await node.start({ ...allow, STORAGE_NODE_DISK_POLICY: "manual" });
    await settled(agent, { SER3: "DISK_STATE_DISCOVERED" });
    const [disk] = [...agent.node.agent.rows.disks()];
    const { kernel } = node.kernel;
    const { write } = kernel;
    const looks: unknown[] = [];
    vi.spyOn(kernel, "write").mockImplementation(async (path, text) => {
      // Its namespaces are open exclusively until it has no driver any more.
      const isUnbind = path.endsWith("/driver/unbind");
      if (isUnbind) looks.push(await agent.node.agent.lookToWipe(disk?.id ?? ""));
      await write(path, text);
      if (isUnbind) looks.push(await agent.node.agent.lookToWipe(disk?.id ?? ""));
    });
    expect(await admit(agent, "SER3")).toBe("OK");
    await settled(agent, { SER3: "DISK_STATE_UP" });
    expect(looks).toEqual([undefined, undefined]);
  },
);

it.skipIf(REAL_SOCKET !== undefined).each(["listing", "opening"] as const)(
  "a double with another NGUID that comes before the %s of a claim is not taken",
  async (before) => {
    const [namespace] = OTHER.namespaces;
    if (namespace === undefined) throw new Error("it has no namespace");
    const named = (id: string, digit: string) => {
      return { ...OTHER, id, namespaces: [{ ...namespace, nguid: digit.repeat(32) }] };
    };
    const double = named("double", "2");
    await using node = await nodeWithDrives({ drives: [named("SER3", "1")] }, [double]);
    const { kernel } = node.kernel;
    const { list, openExclusive, write } = kernel;
    const unbinds: string[] = [];
    let isPrepared = () => false;
    let swapped = false;
    const swap = async () => {
      if (swapped || !isPrepared()) return;
      swapped = true;
      await kernel.unplug(OTHER.address);
      await kernel.plugIn(double);
      await until("its disk is there", async () => (await list("/sys/class/block")).length > 0);
    };
    vi.spyOn(kernel, "list").mockImplementation(async (path) => {
      // The first listing after the way back was recorded is that of the claim.
      if (path === "/sys/bus/pci/devices" && before === "listing") await swap();
      return await list(path);
    });
    vi.spyOn(kernel, "openExclusive").mockImplementation(async (device) => {
      if (before === "opening") await swap();
      return await openExclusive(device);
    });
    vi.spyOn(kernel, "write").mockImplementation(async (path, text) => {
      if (path.endsWith("/driver/unbind")) unbinds.push(text);
      await write(path, text);
    });
    const agent = await node.start({ STORAGE_NODE_DISK_POLICY: "manual" });
    await settled(agent, { SER3: "DISK_STATE_DISCOVERED" });
    const { rows } = agent.node.agent;
    await until("its NGUID is recorded", () => [...rows.disks()][0]?.nguid !== undefined);
    isPrepared = () => [...rows.controllers()][0]?.originalDriver !== undefined;
    expect(await admit(agent, "SER3")).toBe("OK");
    await until("it is refused or taken", async () => {
      const state = (await diskOf(agent, "SER3"))?.state;
      return state === "DISK_STATE_CONFLICT" || state === "DISK_STATE_UP";
    });
    expect(swapped).toBe(true);
    expect(unbinds).toEqual([]);
    expect(await driverAt(node, OTHER.address)).toBe("nvme");
  },
);

it.skipIf(REAL_SOCKET !== undefined)(
  "a disk that is released before the first unbind keeps its driver, and so does what was to be taken with it",
  async () => {
    await using node = await nodeWithDrives({ drives: GROUP });
    const { kernel } = node.kernel;
    const { openExclusive, write } = kernel;
    const unbinds: string[] = [];
    vi.spyOn(kernel, "write").mockImplementation(async (path, text) => {
      if (path.endsWith("/driver/unbind")) unbinds.push(text);
      await write(path, text);
    });
    let opened = 0;
    let released = false;
    vi.spyOn(kernel, "openExclusive").mockImplementation(async (device) => {
      opened += 1;
      if (opened === 1) {
        await release(agent, "SER2", 0);
        released = true;
      }
      return await openExclusive(device);
    });
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_DISCOVERED", SER2: "DISK_STATE_DISCOVERED" });
    expect(await admit(agent, "SER1")).toBe("OK");
    expect(await admit(agent, "SER2")).toBe("OK");
    await until("it is released", () => released);
    const id = await diskIdOf(agent, "SER2");
    await until("the claim has ended", async () => {
      return (await agent.node.agent.lookAtDisk(id)) !== undefined;
    });
    await settled(agent, { SER1: "DISK_STATE_CLAIMING", SER2: "DISK_STATE_RELEASED" });
    await until("the other one says what it waits for", async () => {
      return (await controllersOf(agent))[0]?.stateReason.includes("none of its disks") === true;
    });
    expect([opened, unbinds]).toEqual([2, []]);
    expect(await driverAt(node, HIGH)).toBe("nvme");
  },
);

it.skipIf(REAL_SOCKET !== undefined)(
  "a disk that is released in the middle of a claim is not RELEASED before it is given back",
  async () => {
    await using node = await nodeWithDrives({ drives: GROUP });
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_DISCOVERED", SER2: "DISK_STATE_DISCOVERED" });
    const { kernel } = node.kernel;
    const { write } = kernel;
    let answered: string | undefined;
    vi.spyOn(kernel, "write").mockImplementation(async (path, text) => {
      if (path.endsWith("/driver/unbind") && text === LOW) {
        answered ??= await release(agent, "SER2", 1);
      }
      await write(path, text);
    });
    expect(await admit(agent, "SER1")).toBe("OK");
    expect(await admit(agent, "SER2")).toBe("OK");
    await settled(agent, { SER1: "DISK_STATE_UP", SER2: "DISK_STATE_RELEASING" });
    expect(answered).not.toBe("DISK_STATE_RELEASED");
    const id = await diskIdOf(agent, "SER2");
    await until("it says what it waits for", () => {
      const reason = agent.node.agent.rows.disk(id)?.stateReason;
      return reason?.includes(`together with ${LOW}, which is in use`) === true;
    });
    expect((await controllersOf(agent)).map(({ state }) => state)).toEqual(["ATTACHED", "CLAIMED"]);
    expect(await release(agent, "SER1", 10)).toBe("DISK_STATE_RELEASED");
    await settled(agent, { SER2: "DISK_STATE_RELEASED" });
    expect(await driverAt(node, LOW)).toBe("nvme");
    expect(await driverAt(node, HIGH)).toBe("nvme");
  },
);
