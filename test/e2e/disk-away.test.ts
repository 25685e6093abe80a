// A disk that was released or pulled out and comes back: others may have used it meanwhile, so nothing that only
// this node could know of it holds any more.
import { randomUUID } from "node:crypto";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { imagePath } from "../../src/sim/kernel/hardware.ts";
import { openTree } from "../../src/sim/kernel/tree.ts";
import { putToUse } from "../../src/sim/kernel/use.ts";
import { releaseFunctions } from "../../src/sysfs/vfio.ts";
import { BY_HAND, call, refusal, until, type TestAgent } from "../support/agent.ts";
import {
  admit,
  controllersOf,
  diskIdOf,
  diskOf,
  driverAt,
  drive,
  GIB,
  nodeWithDrives,
  settled,
  wipe,
  type NodeWithDrives,
} from "../support/drives.ts";
import { claim } from "../support/kernel-scenario.ts";
import { REAL_SOCKET } from "../support/target.ts";
import { provision, WAIT } from "../support/volumes.ts";

const SLOT = "0000:01:00.0";
const SMALL = { sizeBytes: GIB / 16n };
const XFS = Buffer.from("XFSB", "latin1");
const SECRET = Buffer.from("what somebody wrote elsewhere");

async function release(agent: TestAgent, serial = "SER1"): Promise<string | undefined> {
  const { client } = agent;
  const diskId = await diskIdOf(agent, serial);
  const forced = { force: true, reason: "it goes to another machine" };
  const request = { diskId, serial, waitTimeout: WAIT, ...forced };
  const { disk } = await call(client, client.releaseDisk.bind(client), request);
  return disk?.status?.state;
}

/** As another machine would, with a target of its own. */
async function usedElsewhere(
  { target: { spdk }, kernel }: NodeWithDrives,
  use: (bdevName: string) => Promise<void>,
): Promise<void> {
  await claim(kernel.kernel, SLOT);
  const at = { name: "elsewhere", trtype: "PCIe", traddr: SLOT } as const;
  const [bdevName = ""] = await spdk.bdevNvmeAttachController(at);
  await use(bdevName);
  await spdk.bdevNvmeDetachController("elsewhere");
  await releaseFunctions(kernel.kernel, [{ address: SLOT, driver: "nvme" }]);
}

describe.skipIf(REAL_SOCKET !== undefined)("a released disk that comes back", () => {
  it("gives no volume the bytes that others left in its free clusters", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1)] });
    const agent = await node.start(BY_HAND);
    await settled(agent, { SER1: "DISK_STATE_UP" });
    const lvsUuid = (await diskOf(agent, "SER1"))?.lvstore?.uuid ?? "";
    expect(await release(agent)).toBe("DISK_STATE_RELEASED");
    const { spdk } = node.target;
    await usedElsewhere(node, async () => {
      await until("the store is loaded", async () => {
        return (await spdk.getLvstore({ uuid: lvsUuid })) !== undefined;
      });
      const shape = { sizeBytes: SMALL.sizeBytes, thin: false, clearMethod: "none" } as const;
      const uuid = await spdk.bdevLvolCreate({ lvsUuid, lvolName: randomUUID(), ...shape });
      await using control = await node.target.control();
      await control.write(uuid, 0, SECRET);
      await spdk.bdevLvolDelete({ lvsUuid, name: uuid });
    });
    expect(await admit(agent, "SER1")).toBe("OK");
    await settled(agent, { SER1: "DISK_STATE_UP" });
    expect((await diskOf(agent, "SER1"))?.lvstore?.freeSpace).toBe("FREE_SPACE_UNKNOWN");
    expect((await refusal(provision(agent, SMALL))).reason).toBe("FREE_SPACE_NOT_ZEROED");
  });

  it("with a store whose making was not seen to end shows it as one that nobody knows", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1)] });
    const agent = await node.start({ ...BY_HAND, STORAGE_NODE_DISK_POLICY: "manual" });
    await settled(agent, { SER1: "DISK_STATE_DISCOVERED" });
    await using control = await node.target.control();
    const { stopped } = await control.stopAt({
      when: "before",
      method: "bdev_lvol_create_lvstore",
    });
    expect(await admit(agent, "SER1")).toBe("OK");
    await stopped;
    const released = release(agent);
    await until("it is asked for", async () => {
      return (await diskOf(agent, "SER1"))?.state === "DISK_STATE_RELEASING";
    });
    await control.resume();
    expect(await released).toBe("DISK_STATE_RELEASED");
    expect(await driverAt(node, SLOT)).toBe("nvme");
    const refused = await admit(agent, "SER1");
    expect(refused).toMatchObject({ details: expect.stringContaining("SPDK_BLOBSTORE") });
    const { client } = agent;
    const asked = { diskId: await diskIdOf(agent, "SER1"), serial: "SER1", waitTimeout: WAIT };
    const listed = { ...asked, validateOnly: true, storeUuid: "" };
    const { disk, store } = await call(client, client.adoptDisk.bind(client), listed);
    expect(disk?.status).toMatchObject({ state: "DISK_STATE_FOREIGN", lvstore: undefined });
    expect(store?.name).toMatch(/^sn-/);
  });
});

async function isGone(agent: TestAgent, address: string): Promise<boolean> {
  const controllers = await controllersOf(agent);
  return controllers.some((one) => one.address === address && one.state === "MISSING");
}

describe.skipIf(REAL_SOCKET !== undefined)("a disk that was blank when it was claimed", () => {
  it("is not formatted once it was pulled out and used elsewhere", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1), drive(2)] });
    const agent = await node.start({ STORAGE_NODE_DISK_POLICY: "manual" });
    await settled(agent, { SER1: "DISK_STATE_DISCOVERED", SER2: "DISK_STATE_DISCOVERED" });
    expect(await admit(agent, "SER2")).toBe("OK");
    await settled(agent, { SER2: "DISK_STATE_UP" });
    {
      await using control = await node.target.control();
      const method = "bdev_nvme_attach_controller";
      const { stopped } = await control.stopAt({ when: "before", method, nth: 1 });
      expect(await admit(agent, "SER1")).toBe("OK");
      await stopped;
      await node.target.kill();
    }
    const { kernel } = node.kernel;
    await kernel.unplug(SLOT);
    await kernel.unplug("0000:02:00.0");
    await until("both are seen to be gone", async () => {
      return (await isGone(agent, SLOT)) && (await isGone(agent, "0000:02:00.0"));
    });
    await node.kernel.writeBytes("SER1", Buffer.concat([XFS, SECRET]));
    await node.target.restart();
    await settled(agent, { SER1: "DISK_STATE_MISSING", SER2: "DISK_STATE_MISSING" });
    // It is attached there, as it may be the other one.
    const elsewhere = { address: "0000:09:00.0", iommuGroup: "9", driver: "vfio-pci" } as const;
    await kernel.plugIn({ ...drive(1), ...elsewhere });
    await using control = await node.target.control();
    await until("it is let go, or has a store", async () => {
      const { bdev_nvme_detach_controller: detaches = 0 } = await control.counts();
      return detaches > 0 || (await diskOf(agent, "SER1"))?.lvstore !== undefined;
    });
    expect((await diskOf(agent, "SER1"))?.lvstore).toBeUndefined();
    await using file = await open(join(node.kernel.root, imagePath("SER1", 1)));
    const { buffer } = await file.read(Buffer.alloc(4), 0, 4, 0);
    expect(buffer).toEqual(XFS);
  });

  it("is looked at by AdmitDisk once it was UP, pulled out and wiped", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1)] });
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_UP" });
    const { kernel } = node.kernel;
    await node.target.kill();
    await kernel.unplug(SLOT);
    await node.target.restart();
    await settled(agent, { SER1: "DISK_STATE_MISSING" });
    expect(await release(agent)).toBe("DISK_STATE_RELEASED");
    await kernel.plugIn(drive(1));
    await until("it is looked at", async () => {
      return ((await diskOf(agent, "SER1"))?.evidence.length ?? 0) > 0;
    });
    await wipe(agent, "SER1");
    await node.kernel.writeBytes("SER1", XFS);
    await putToUse(
      openTree(node.kernel.root),
      { address: SLOT },
      { nsid: 1, partition: 0 },
      { kind: "mount", at: "/srv" },
    );
    expect(await admit(agent, "SER1")).toMatchObject({
      details: expect.stringContaining("MOUNTED"),
    });
  });
});
