// ReleaseDisk: a disk leaves the node with what is on it, and may come back or be replaced by another one.
import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import type { KernelSpec, SimulatedDrive } from "../../src/sim/kernel/build-tree.ts";
import { call, refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import {
  admit,
  conditionOf,
  diskIdOf,
  diskOf,
  driverAt,
  drive,
  GIB,
  nodeWithDrives,
  settled,
  type NodeWithDrives,
} from "../support/drives.ts";
import { REAL_SOCKET, startTarget } from "../support/target.ts";
import { getLvol, HOST, idOf, provision, remove, stateOf, WAIT } from "../support/volumes.ts";

const DATA = Buffer.from("what a tenant wrote");
const SLOT = "0000:01:00.0";

const spec = (...drives: readonly SimulatedDrive[]): KernelSpec => ({ drives });

type Release = { readonly force?: boolean; readonly reason?: string; readonly nsid?: number };

/** The state that it has in the answer. */
async function release(
  agent: TestAgent,
  serial: string,
  { force = false, reason = "", nsid = 1 }: Release = {},
): Promise<string | undefined> {
  const { client } = agent;
  const diskId = await diskIdOf(agent, serial, nsid);
  const request = { diskId, serial, force, reason, waitTimeout: WAIT };
  const { disk } = await call(client, client.releaseDisk.bind(client), request);
  return disk?.status?.state;
}

const FORCED = { force: true, reason: "it goes to another machine" } as const;

async function upVolume(agent: TestAgent, serial = "SER1") {
  await settled(agent, { [serial]: "DISK_STATE_UP" });
  return await provision(agent, { sizeBytes: GIB / 16n });
}

async function isUp(agent: TestAgent, id: string): Promise<boolean> {
  return stateOf(await getLvol(agent, id)) === "LVOL_STATE_UP";
}

async function subsystems({ target }: NodeWithDrives): Promise<readonly string[]> {
  const all = await target.spdk.nvmfGetSubsystems();
  return all.filter(({ namespaces }) => namespaces.length > 0).map(({ nqn }) => nqn);
}

describe.skipIf(REAL_SOCKET !== undefined)("ReleaseDisk", () => {
  it("gives an empty disk back to the kernel, which AdmitDisk takes again with its store", async () => {
    await using node = await nodeWithDrives(spec(drive(1)));
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_UP" });
    const store = (await diskOf(agent, "SER1"))?.lvstore?.uuid;
    expect(await release(agent, "SER1")).toBe("DISK_STATE_RELEASED");
    expect(await driverAt(node, SLOT)).toBe("nvme");
    expect(await node.target.spdk.bdevNvmeGetControllers()).toEqual([]);
    // Policy does not take it again, nor do restarts.
    await agent[Symbol.asyncDispose]();
    await node.target.restart();
    const second = await node.start();
    await settled(second, { SER1: "DISK_STATE_RELEASED" });
    expect(await driverAt(node, SLOT)).toBe("nvme");
    expect(await admit(second, "SER1")).toBe("OK");
    await settled(second, { SER1: "DISK_STATE_UP" });
    expect((await diskOf(second, "SER1"))?.lvstore?.uuid).toBe(store);
  });

  it("is refused with volumes on it, and with force ends their exports and keeps their data", async () => {
    await using node = await nodeWithDrives(spec(drive(1)));
    const agent = await node.start();
    const made = await upVolume(agent);
    const { nqn = "", lvolUuid = "" } = made.status ?? {};
    {
      await using control = await node.target.control();
      await control.write(lvolUuid, 0, DATA);
      await control.connectHost(nqn, HOST);
    }
    const refused = await refusal(release(agent, "SER1"));
    expect(refused).toMatchObject({ reason: "IN_USE" });
    expect(refused.message).toContain("it holds 1 volume");
    expect(await isUp(agent, idOf(made))).toBe(true);
    expect((await refusal(release(agent, "SER1", { force: true }))).reason).toBe("INVALID_FIELD");
    expect(await release(agent, "SER1", FORCED)).toBe("DISK_STATE_RELEASED");
    expect(await subsystems(node)).toEqual([]);
    expect(await driverAt(node, SLOT)).toBe("nvme");
    const away = await getLvol(agent, idOf(made));
    expect(away.status).toMatchObject({ state: "LVOL_STATE_DEGRADED" });
    expect(away.status?.conditions).toContainEqual(
      expect.objectContaining({ type: "DiskReady", status: "CONDITION_STATUS_FALSE" }),
    );
    expect(await admit(agent, "SER1")).toBe("OK");
    await until("the volume is UP again", async () => isUp(agent, idOf(made)));
    expect(await subsystems(node)).toEqual([nqn]);
    await using control = await node.target.control();
    expect(await control.read(lvolUuid, 0, DATA.length)).toEqual(DATA);
  });

  it("gives back a disk whose controller SPDK has given up, with what is on it", async () => {
    await using node = await nodeWithDrives(spec(drive(1)));
    const first = await node.start();
    await upVolume(first);
    {
      await using control = await node.target.control();
      await control.ask({ op: "health", serial: "SER1", controller: "failed" });
    }
    await first[Symbol.asyncDispose]();
    // What it knows of the disk is what the target shows of a failed controller.
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_UP" });
    expect(await release(agent, "SER1", FORCED)).toBe("DISK_STATE_RELEASED");
    expect(await driverAt(node, SLOT)).toBe("nvme");
    expect(await node.target.spdk.bdevNvmeGetControllers()).toEqual([]);
  });

  it("takes no new volumes once it was asked for", async () => {
    await using node = await nodeWithDrives(spec(drive(1)));
    const agent = await node.start();
    const made = await upVolume(agent);
    await using control = await node.target.control();
    const { stopped } = await control.stopAt({ when: "before", method: "nvmf_delete_subsystem" });
    const released = release(agent, "SER1", FORCED);
    await stopped;
    const refused = await refusal(provision(agent, { sizeBytes: GIB / 16n }));
    expect(refused.reason).toBe("DISK_NOT_UP");
    expect((await diskOf(agent, "SER1"))?.state).toBe("DISK_STATE_RELEASING");
    expect(await driverAt(node, SLOT)).toBe("vfio-pci");
    await control.resume();
    expect(await released).toBe("DISK_STATE_RELEASED");
    expect(await isUp(agent, idOf(made))).toBe(false);
  });

  it("ends the deletion of its volumes, which are deleted for good when the disk comes back", async () => {
    await using node = await nodeWithDrives(spec(drive(1)));
    const agent = await node.start();
    const [kept, gone] = [await upVolume(agent), await upVolume(agent)];
    expect(await release(agent, "SER1", FORCED)).toBe("DISK_STATE_RELEASED");
    expect(await remove(agent, idOf(gone))).toEqual({ done: true });
    expect(await admit(agent, "SER1")).toBe("OK");
    await until("the other volume is UP again", async () => isUp(agent, idOf(kept)));
    await until("the lvol is deleted", async () => {
      const lvols = await node.target.spdk.bdevLvolGetLvols();
      return lvols.map(({ name }) => name).join() === idOf(kept);
    });
  });

  it("of one of two namespaces waits until the other one is released, too", async () => {
    const namespace = { sizeBytes: 4n * GIB, blockSizeBytes: 4096 } as const;
    const both = { ...drive(1), namespaces: [namespace, namespace] };
    await using node = await nodeWithDrives(spec(both));
    const agent = await node.start();
    const made = await upVolume(agent);
    await until("the second one is UP", async () => {
      return (await diskOf(agent, "SER1", 2))?.state === "DISK_STATE_UP";
    });
    const onFirst = made.status?.diskId === (await diskIdOf(agent, "SER1", 1));
    const [used, free] = onFirst ? [1, 2] : [2, 1];
    const released = release(agent, "SER1", { nsid: free });
    await until("it says what it waits for", async () => {
      const claimed = (await diskOf(agent, "SER1", free))?.conditions;
      return claimed?.some(({ message }) => message.includes(`SER1/${used}`)) === true;
    });
    expect(await isUp(agent, idOf(made))).toBe(true);
    expect(await release(agent, "SER1", { ...FORCED, nsid: used })).toBe("DISK_STATE_RELEASED");
    expect(await released).toBe("DISK_STATE_RELEASED");
    expect(await driverAt(node, SLOT)).toBe("nvme");
  });

  it("of one of two drives in an IOMMU group waits likewise, and says for which", async () => {
    const group = { iommuGroup: "7" };
    await using node = await nodeWithDrives(
      spec({ ...drive(1), ...group }, { ...drive(2), ...group }),
    );
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_UP", SER2: "DISK_STATE_UP" });
    const released = release(agent, "SER1");
    await until("it says what it waits for", async () => {
      const attached = await conditionOf(agent, "SER1", "Attached");
      return attached?.message.includes("SER2/1") === true;
    });
    expect((await diskOf(agent, "SER2"))?.state).toBe("DISK_STATE_UP");
    expect(await release(agent, "SER2")).toBe("DISK_STATE_RELEASED");
    expect(await released).toBe("DISK_STATE_RELEASED");
    expect(await driverAt(node, SLOT)).toBe("nvme");
    expect(await driverAt(node, "0000:02:00.0")).toBe("nvme");
  });

  it("gives back both ports of a drive that has two", async () => {
    const ports = [drive(1), { ...drive(2), serial: "SER1", id: "SER1" }];
    await using node = await nodeWithDrives(
      spec(...ports.map((port) => ({ ...port, subsystem: "dual" }))),
    );
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_UP" });
    expect(await release(agent, "SER1")).toBe("DISK_STATE_RELEASED");
    expect(await driverAt(node, SLOT)).toBe("nvme");
    await until("the other port is back, too", async () => {
      return (await driverAt(node, "0000:02:00.0")) === "nvme";
    });
  });

  it("lets a drive that died be replaced by another one in its slot", async () => {
    await using node = await nodeWithDrives(spec(drive(1)), [drive(2)]);
    const agent = await node.start();
    const made = await upVolume(agent);
    const { kernel } = node.kernel;
    await node.target.kill();
    await kernel.unplug(SLOT);
    await node.target.restart();
    await settled(agent, { SER1: "DISK_STATE_MISSING" });
    const old = await diskIdOf(agent, "SER1");
    expect(await release(agent, "SER1", FORCED)).toBe("DISK_STATE_RELEASED");
    expect(await remove(agent, idOf(made))).toEqual({ done: true });
    // It has left the machine: it is not listed any more, and still there by its id.
    expect(await diskOf(agent, "SER1")).toBeUndefined();
    const { client } = agent;
    const { disk } = await call(client, client.getDisk.bind(client), { diskId: old });
    expect(disk?.status?.state).toBe("DISK_STATE_RELEASED");
    await kernel.plugIn({ ...drive(2), address: SLOT, iommuGroup: "1" });
    const next = await upVolume(agent, "SER2");
    expect(await isUp(agent, idOf(next))).toBe(true);
  });

  it("of a disk that comes back after it was released and pulled shows it, and takes it only when asked", async () => {
    await using node = await nodeWithDrives(spec(drive(1)));
    const agent = await node.start();
    const made = await upVolume(agent);
    expect(await release(agent, "SER1", FORCED)).toBe("DISK_STATE_RELEASED");
    const { kernel } = node.kernel;
    await kernel.unplug(SLOT);
    await until("it is not listed", async () => (await diskOf(agent, "SER1")) === undefined);
    await kernel.plugIn({ ...drive(1), address: "0000:05:00.0", iommuGroup: "5" });
    await settled(agent, { SER1: "DISK_STATE_RELEASED" });
    expect(await driverAt(node, "0000:05:00.0")).toBe("nvme");
    expect(await conditionOf(agent, "SER1", "Admitted")).toMatchObject({
      status: "CONDITION_STATUS_FALSE",
    });
    expect(await isUp(agent, idOf(made))).toBe(false);
  });

  it("of a disk that was looked for on vfio-pci, and is being attached, waits until it is off again", async () => {
    const address = "0000:05:00.0";
    await using node = await nodeWithDrives(spec(drive(1)));
    const agent = await node.start();
    await upVolume(agent);
    const { kernel } = node.kernel;
    await node.target.kill();
    await kernel.unplug(SLOT);
    await node.target.restart();
    const { rows } = agent.node.agent;
    await until("it is not tried where it was", () => rows.controller(SLOT)?.state === "MISSING");
    await settled(agent, { SER1: "DISK_STATE_MISSING" });
    await using control = await node.target.control();
    const [attach, detach] = ["bdev_nvme_attach_controller", "bdev_nvme_detach_controller"];
    await control.resetCounts();
    await control.ask({ op: "slow", method: attach, nth: 1, ms: 2_000 });
    await kernel.plugIn({ ...drive(1), address, iommuGroup: "5", driver: "vfio-pci" });
    await until("the attach is sent", async () => (await control.counts())[attach] === 1);
    expect(await release(agent, "SER1", FORCED)).toBe("DISK_STATE_RELEASED");
    expect(await control.counts()).toMatchObject({ [attach]: 1, [detach]: 1 });
    expect(await node.target.spdk.bdevNvmeGetControllers()).toEqual([]);
  });

  it("is carried on by the agent that finds it half done", async () => {
    await using node = await nodeWithDrives(spec(drive(1)));
    const agent = await node.start();
    await upVolume(agent);
    await using control = await node.target.control();
    const { stopped } = await control.stopAt({
      when: "before",
      method: "bdev_nvme_detach_controller",
    });
    const released = release(agent, "SER1", FORCED).catch((error: unknown) => error);
    await stopped;
    await agent[Symbol.asyncDispose]();
    await released;
    await control.resume();
    const second = await node.start();
    await settled(second, { SER1: "DISK_STATE_RELEASED" });
    expect(await driverAt(node, SLOT)).toBe("nvme");
  });
});

describe("ReleaseDisk of a disk on a fabric", () => {
  it("detaches it, and AdmitDisk attaches it again with its volumes", async () => {
    await using database = await testDatabase();
    await using target = await startTarget();
    await using agent = await startAgent({ url: database.url, target });
    await agent.ready();
    const made = await provision(agent, { sizeBytes: GIB / 16n });
    const { client } = agent;
    const diskId = made.status?.diskId ?? "";
    const disk = async () => (await call(client, client.getDisk.bind(client), { diskId })).disk;
    const serial = (await disk())?.status?.serial ?? "";
    const controllers = async () => (await target.spdk.bdevNvmeGetControllers()).length;
    const before = await controllers();
    const asked = { diskId, serial, waitTimeout: WAIT };
    const unforced = { ...asked, force: false, reason: "" };
    const refused = await refusal(call(client, client.releaseDisk.bind(client), unforced));
    expect(refused.reason).toBe("IN_USE");
    await call(client, client.releaseDisk.bind(client), { ...asked, ...FORCED });
    expect((await disk())?.status?.state).toBe("DISK_STATE_RELEASED");
    expect(await controllers()).toBe(before - 1);
    expect(await isUp(agent, idOf(made))).toBe(false);
    const again = { ...asked, evidenceFingerprint: "", address: "", discardZeroes: false };
    await call(client, client.admitDisk.bind(client), again);
    await until("the volume is UP again", async () => isUp(agent, idOf(made)));
    expect(await remove(agent, idOf(made))).toEqual({ done: true });
  });

  it.skipIf(REAL_SOCKET !== undefined)(
    "is not carried out once AdmitDisk takes it back",
    async () => {
      await using database = await testDatabase();
      await using target = await startTarget();
      await using agent = await startAgent({ url: database.url, target });
      await agent.ready();
      const first = await provision(agent, { sizeBytes: GIB / 16n });
      const { client } = agent;
      const { diskId = "" } = first.status ?? {};
      const { rows } = agent.node.agent;
      const serial = rows.disk(diskId)?.serial ?? "";
      await using control = await target.control();
      // Its answer keeps the lane of the disk shut, and the detach waiting.
      await control.delay({ method: "bdev_lvol_create", polls: 1_000 });
      const id = randomUUID();
      await provision(agent, { sizeBytes: GIB / 16n, diskId }, { id, wait: false });
      const asked = { diskId, serial, waitTimeout: undefined };
      await call(client, client.releaseDisk.bind(client), { ...asked, ...FORCED });
      await until("the detach is announced", () => rows.disk(diskId)?.pendingOp?.op === "detach");
      const again = { ...asked, evidenceFingerprint: "", address: "", discardZeroes: false };
      await call(client, client.admitDisk.bind(client), again);
      await until("both volumes are UP", async () => {
        return (await isUp(agent, idOf(first))) && (await isUp(agent, id));
      });
      expect((await control.counts())["bdev_nvme_detach_controller"] ?? 0).toBe(0);
    },
  );
});
