// A disk that was released and comes back: others may have used it meanwhile, so nothing that only this node
// could know of it holds any more.
import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import { releaseFunctions } from "../../src/sysfs/vfio.ts";
import { BY_HAND, call, refusal, until, type TestAgent } from "../support/agent.ts";
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
import { provision, WAIT } from "../support/volumes.ts";

const SLOT = "0000:01:00.0";
const SMALL = { sizeBytes: GIB / 16n };
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
