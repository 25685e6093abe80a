// AdoptDisk: a drive with a store that no row of this node knows is read, listed, and becomes one of this node.
import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import type { AdoptDiskResponse } from "../../src/gen/storagenode/v1/storage_node.ts";
import { releaseFunctions } from "../../src/sysfs/vfio.ts";
import { call, refusal, until, type TestAgent } from "../support/agent.ts";
import {
  admit,
  diskIdOf,
  diskOf,
  driverAt,
  drive,
  GIB,
  nodeWithDrives,
  settled,
  type NodeWithDrives,
} from "../support/drives.ts";
import { claim } from "../support/kernel-scenario.ts";
import { REAL_SOCKET } from "../support/target.ts";
import { getLvol, HOST, idOf, provision, stateOf, WAIT } from "../support/volumes.ts";

const DATA = Buffer.from("what a tenant wrote elsewhere");
const SLOT = "0000:01:00.0";
const CLUSTER = 4n * 1024n ** 2n;

/** Undefined: list what lies there. */
async function adopt(
  agent: TestAgent,
  serial: string,
  storeUuid?: string,
): Promise<AdoptDiskResponse> {
  const { client } = agent;
  const diskId = await diskIdOf(agent, serial);
  const asked = { validateOnly: storeUuid === undefined, storeUuid: storeUuid ?? "" };
  const request = { diskId, serial, waitTimeout: WAIT, ...asked };
  return await call(client, client.adoptDisk.bind(client), request);
}

type Made = { readonly volume: string; readonly clone: string; readonly snapshot: string };

/** Another owner has made a store on the drive, with a volume, a snapshot, a clone and what has no id. */
async function usedBySomebody({ target, kernel }: NodeWithDrives): Promise<Made> {
  const { spdk } = target;
  await claim(kernel.kernel, SLOT);
  const [bdevName = ""] = await spdk.bdevNvmeAttachController({
    name: "somebody",
    trtype: "PCIe",
    traddr: SLOT,
  });
  const store = { lvsName: "lvs0", clusterBytes: CLUSTER, clearMethod: "none" } as const;
  const lvsUuid = await spdk.bdevLvolCreateLvstore({ bdevName, ...store });
  const [volume, snapshot, clone] = [randomUUID(), randomUUID(), randomUUID()];
  const shape = { lvsUuid, sizeBytes: 4n * CLUSTER, thin: true, clearMethod: "none" } as const;
  const lvolUuid = await spdk.bdevLvolCreate({ ...shape, lvolName: volume });
  await spdk.bdevLvolCreate({ ...shape, lvolName: "scratch" });
  {
    await using control = await target.control();
    await control.write(lvolUuid, 0, DATA);
  }
  await spdk.bdevLvolSnapshot({ lvsUuid, name: lvolUuid, snapshotName: snapshot });
  await spdk.bdevLvolClone({ lvsUuid, name: `lvs0/${snapshot}`, cloneName: clone });
  await spdk.bdevNvmeDetachController("somebody");
  await releaseFunctions(kernel.kernel, [{ address: SLOT, driver: "nvme" }]);
  return { volume, snapshot, clone };
}

/** The id that a clone of an image has as its name. */
async function clonedBySomebody({ target: { spdk }, kernel }: NodeWithDrives): Promise<string> {
  await claim(kernel.kernel, SLOT);
  const at = { name: "somebody", trtype: "PCIe", traddr: SLOT } as const;
  const [bdevName = ""] = await spdk.bdevNvmeAttachController(at);
  const store = { lvsName: "lvs0", clusterBytes: CLUSTER, clearMethod: "none" } as const;
  const lvsUuid = await spdk.bdevLvolCreateLvstore({ bdevName, ...store });
  const shape = { lvsUuid, sizeBytes: 4n * CLUSTER, thin: true, clearMethod: "none" } as const;
  const name = await spdk.bdevLvolCreate({ ...shape, lvolName: "golden" });
  await spdk.bdevLvolSnapshot({ lvsUuid, name, snapshotName: "golden-1" });
  const cloneName = randomUUID();
  await spdk.bdevLvolClone({ lvsUuid, name: "lvs0/golden-1", cloneName });
  await spdk.bdevNvmeDetachController("somebody");
  await releaseFunctions(kernel.kernel, [{ address: SLOT, driver: "nvme" }]);
  return cloneName;
}

describe.skipIf(REAL_SOCKET !== undefined)("AdoptDisk", () => {
  it("lists what lies in the store of somebody else, and makes volumes and snapshots of it", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1)] });
    const made = await usedBySomebody(node);
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_FOREIGN" });
    expect(await admit(agent, "SER1")).toMatchObject({
      details: expect.stringContaining("SPDK_BLOBSTORE"),
    });
    const listed = await adopt(agent, "SER1");
    expect(listed.store).toMatchObject({ name: "lvs0", clusterBytes: CLUSTER });
    expect(listed.disk?.status?.state).toBe("DISK_STATE_FOREIGN");
    const names = listed.contents.map(({ name, snapshot, clone }) => ({ name, snapshot, clone }));
    expect(names).toHaveLength(4);
    expect(names).toContainEqual({ name: made.snapshot, snapshot: true, clone: false });
    expect(names).toContainEqual({ name: made.clone, snapshot: false, clone: true });
    const storeUuid = listed.store?.uuid ?? "";
    const adopted = await adopt(agent, "SER1", storeUuid);
    expect(adopted.disk?.status?.state).toBe("DISK_STATE_UP");
    expect(adopted.disk?.status?.lvstore).toMatchObject({ uuid: storeUuid });
    expect(adopted.store?.name).toMatch(/^sn-/);
    await until("it is exported to nobody, and UP otherwise", async () => {
      const { status } = await getLvol(agent, made.volume);
      const exported = status?.conditions.find(({ type }) => type === "Exported");
      return status?.lvolUuid !== "" && exported?.status === "CONDITION_STATUS_FALSE";
    });
    const { client } = agent;
    const allow = { lvolId: made.volume, hostNqn: HOST, waitTimeout: WAIT };
    await call(client, client.allowHost.bind(client), allow);
    await until("the volume is UP", async () => {
      return stateOf(await getLvol(agent, made.volume)) === "LVOL_STATE_UP";
    });
    const { lvolUuid = "" } = (await getLvol(agent, made.volume)).status ?? {};
    await using control = await node.target.control();
    expect(await control.read(lvolUuid, 0, DATA.length)).toEqual(DATA);
    const page = { pageSize: 0, pageToken: "" };
    const { orphans } = await call(client, client.listOrphans.bind(client), page);
    expect(orphans.map(({ name }) => name)).toEqual([expect.stringMatching(/\/scratch$/)]);
    const { snapshots } = await call(client, client.listSnapshots.bind(client), {
      ...page,
      showDeleted: false,
      sourceLvolId: "",
    });
    expect(snapshots.map(({ meta }) => meta?.id)).toEqual([made.snapshot]);
    // Asked again, after the answer was lost.
    expect((await adopt(agent, "SER1", storeUuid)).disk?.status?.state).toBe("DISK_STATE_UP");
    await node.target.kill();
    await until("the target is seen to be away", () => !agent.node.agent.ready());
    expect(await refusal(adopt(agent, "SER1", storeUuid))).toMatchObject({ reason: "TARGET_DOWN" });
    await node.target.restart();
    await settled(agent, { SER1: "DISK_STATE_UP" });
  });

  it("that only listed changes nothing, and ReleaseDisk gives the drive back as it was", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1)] });
    await usedBySomebody(node);
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_FOREIGN" });
    const { store } = await adopt(agent, "SER1");
    expect(await node.target.spdk.getLvstore({ name: "lvs0" })).toMatchObject({
      uuid: store?.uuid,
    });
    const { client } = agent;
    const [diskId, serial] = [await diskIdOf(agent, "SER1"), "SER1"];
    const unforced = { diskId, serial, waitTimeout: WAIT, force: false, reason: "" };
    const refused = await refusal(call(client, client.releaseDisk.bind(client), unforced));
    expect(refused).toMatchObject({ reason: "IN_USE" });
    expect(refused.message).toContain("lvs0");
    const forced = { ...unforced, force: true, reason: "it is not ours" };
    await call(client, client.releaseDisk.bind(client), forced);
    await settled(agent, { SER1: "DISK_STATE_RELEASED" });
    expect(await driverAt(node, SLOT)).toBe("nvme");
  });

  it("is refused for what is in use, is no store, or is another one than was listed", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1), drive(2)] });
    await usedBySomebody(node);
    const agent = await node.start({ STORAGE_NODE_DISK_POLICY: "manual" });
    await settled(agent, { SER1: "DISK_STATE_FOREIGN", SER2: "DISK_STATE_DISCOVERED" });
    expect((await refusal(adopt(agent, "SER2"))).reason).toBe("NO_STORE");
    expect((await refusal(adopt(agent, "SER1", randomUUID()))).reason).toBe("NO_STORE");
    expect((await refusal(adopt(agent, "SER1", "x"))).reason).toBe("INVALID_FIELD");
    await adopt(agent, "SER1");
    expect((await refusal(adopt(agent, "SER1", randomUUID()))).reason).toBe("NO_STORE");
    expect(await admit(agent, "SER2")).toBe("OK");
    await settled(agent, { SER2: "DISK_STATE_UP" });
    const own = (await diskOf(agent, "SER2"))?.lvstore?.uuid ?? "";
    expect((await adopt(agent, "SER2", own)).disk?.status?.state).toBe("DISK_STATE_UP");
    expect(stateOf(await provision(agent, { sizeBytes: GIB / 16n }))).toBe("LVOL_STATE_UP");
    expect((await diskOf(agent, "SER1"))?.state).toBe("DISK_STATE_FOREIGN");
  });

  it("makes a volume of a clone whose snapshot has no id", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1)] });
    const clone = await clonedBySomebody(node);
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_FOREIGN" });
    const { store } = await adopt(agent, "SER1");
    const adopted = await adopt(agent, "SER1", store?.uuid);
    expect(adopted.disk?.status?.state).toBe("DISK_STATE_UP");
    expect(idOf(await getLvol(agent, clone))).toBe(clone);
  });

  it("is refused while what lies there is exported by somebody", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1)] });
    const made = await usedBySomebody(node);
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_FOREIGN" });
    const { store } = await adopt(agent, "SER1");
    const { spdk } = node.target;
    const nqn = "nqn.2026-11.com.example:somebody";
    const shape = { serialNumber: "SOMEBODY", modelNumber: "M", maxNamespaces: 2 };
    await spdk.nvmfCreateSubsystem({ nqn, allowAnyHost: true, ...shape });
    for (const [index, name] of [made.volume, made.clone].entries()) {
      const uuid = randomUUID();
      const nguid = uuid.replaceAll("-", "");
      const namespace = { nsid: index + 1, bdevName: `lvs0/${name}`, uuid, nguid };
      await spdk.nvmfSubsystemAddNs({ nqn, ...namespace });
    }
    const refused = await refusal(adopt(agent, "SER1", store?.uuid));
    expect(refused).toMatchObject({ reason: "IN_USE" });
    expect(refused.message).toContain(nqn);
    await spdk.nvmfDeleteSubsystem(nqn);
    const adopted = await adopt(agent, "SER1", store?.uuid);
    expect(adopted.disk?.status?.state).toBe("DISK_STATE_UP");
  });

  it("goes on in the agent that finds it half done", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1)] });
    const made = await usedBySomebody(node);
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_FOREIGN" });
    const { store } = await adopt(agent, "SER1");
    await using control = await node.target.control();
    const { stopped } = await control.stopAt({
      when: "before",
      method: "bdev_lvol_rename_lvstore",
    });
    const answer = adopt(agent, "SER1", store?.uuid).catch((error: unknown) => error);
    await stopped;
    await agent[Symbol.asyncDispose]();
    await answer;
    await control.resume();
    const second = await node.start();
    await settled(second, { SER1: "DISK_STATE_UP" });
    expect(idOf(await getLvol(second, made.clone))).toBe(made.clone);
  });
});
