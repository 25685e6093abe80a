// Disks bound to the kernel's nvme driver: blank ones are claimed, formatted and served, all others
// keep their driver and their data. Uses a simulated kernel and a target that attaches through it.
import { open } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { status } from "@grpc/grpc-js";
import { openTree } from "../../src/sim/kernel/tree.ts";
import { unmount } from "../../src/sim/kernel/use.ts";
import { imagePath } from "../../src/sim/kernel/hardware.ts";
import { loadVfioPci, type SimulatedDrive } from "../../src/sim/kernel/build-tree.ts";
import { call, until, type TestAgent } from "../support/agent.ts";
import { functionAt, type KernelScenario } from "../support/kernel-scenario.ts";
import { REAL_SOCKET } from "../support/target.ts";
import { nodeWithDrives } from "../support/drives.ts";
import { getLvol, idOf, provision, stateOf } from "../support/volumes.ts";

const GIB = 1024n ** 3n;
const BLOCK = 4096;

function drive(index: number, change: Partial<SimulatedDrive["namespaces"][number]> = {}) {
  return {
    address: `0000:0${index}:00.0`,
    serial: `SER${index}`,
    model: "KERNEL DISK",
    iommuGroup: `${index}`,
    namespaces: [{ sizeBytes: 4n * GIB, blockSizeBytes: BLOCK, ...change }],
  } as const satisfies SimulatedDrive;
}

const BLANK = drive(1);
const MOUNTED = drive(2, { use: { kind: "mount", at: "/data" } });
const PARTITIONED = drive(3, { partitions: [{ startBytes: 1024n ** 2n, sizeBytes: GIB }] });
const SIGNED = drive(4, { bytes: [{ at: 0n, data: Buffer.from("XFSB", "latin1") }] });

async function disksOf({ client }: TestAgent) {
  const request = { pageSize: 0, pageToken: "" };
  const { disks } = await call(client, client.listDisks.bind(client), request);
  return new Map(disks.map((disk) => [disk.status?.serial ?? "", disk.status]));
}

/** "OK", or the error. */
async function admit(agent: TestAgent, serial: string): Promise<unknown> {
  const { client } = agent;
  const all = await call(client, client.listDisks.bind(client), { pageSize: 0, pageToken: "" });
  const diskId = all.disks.find((disk) => disk.status?.serial === serial)?.meta?.id ?? "";
  const unset = { evidenceFingerprint: "", address: "", discardZeroes: false };
  try {
    await call(client, client.admitDisk.bind(client), {
      diskId,
      serial,
      ...unset,
      waitTimeout: undefined,
    });
    return "OK";
  } catch (error) {
    return error;
  }
}

async function settled(agent: TestAgent, states: Readonly<Record<string, string>>): Promise<void> {
  await until(`disks are ${JSON.stringify(states)}`, async () => {
    const disks = await disksOf(agent);
    return Object.entries(states).every(([serial, state]) => disks.get(serial)?.state === state);
  });
}

async function driverAt({ kernel }: KernelScenario, address: string): Promise<string | undefined> {
  return (await functionAt(kernel, address)).driver;
}

async function firstBytes({ root }: KernelScenario, serial: string): Promise<Buffer> {
  await using file = await open(join(root, imagePath(serial, 1)));
  const { buffer } = await file.read({ buffer: Buffer.alloc(1024 * 1024) });
  return buffer;
}

describe.skipIf(REAL_SOCKET !== undefined)("disks of the kernel", () => {
  it("are claimed when blank, and left unchanged with evidence when mounted, partitioned or signed", async () => {
    await using setup = await nodeWithDrives({ drives: [BLANK, MOUNTED, PARTITIONED, SIGNED] });
    const before = await Promise.all(
      ["SER2", "SER3", "SER4"].map((serial) => firstBytes(setup.kernel, serial)),
    );
    const agent = await setup.start();
    await settled(agent, {
      SER1: "DISK_STATE_UP",
      SER2: "DISK_STATE_IN_USE",
      SER3: "DISK_STATE_FOREIGN",
      SER4: "DISK_STATE_FOREIGN",
    });
    const disks = await disksOf(agent);
    const kinds = (serial: string) => disks.get(serial)?.evidence.map(({ kind }) => kind) ?? [];
    expect(disks.get("SER1")).toMatchObject({
      driver: "vfio-pci",
      originalDriver: "nvme",
      lvstore: { freeSpace: "FREE_SPACE_ZEROED" },
    });
    expect(kinds("SER2")).toContain("MOUNTED");
    expect(kinds("SER3")).toContain("PARTITION_TABLE");
    expect(kinds("SER4")).toContain("SIGNATURE");
    const claimed = disks.get("SER2")?.conditions.find(({ type }) => type === "Claimed");
    expect(claimed?.message).toContain("MOUNTED");
    for (const { address } of [MOUNTED, PARTITIONED, SIGNED]) {
      expect(await driverAt(setup.kernel, address)).toBe("nvme");
    }
    const after = await Promise.all(
      ["SER2", "SER3", "SER4"].map((serial) => firstBytes(setup.kernel, serial)),
    );
    expect(after).toEqual(before);
  });

  it("come back with their volumes after a restart of agent and target", async () => {
    await using setup = await nodeWithDrives({ drives: [BLANK] });
    const first = await setup.start();
    await settled(first, { SER1: "DISK_STATE_UP" });
    const made = await provision(first);
    const store = (await disksOf(first)).get("SER1")?.lvstore?.uuid;
    await first[Symbol.asyncDispose]();
    await setup.target.restart();
    const second = await setup.start();
    await settled(second, { SER1: "DISK_STATE_UP" });
    expect((await disksOf(second)).get("SER1")?.lvstore?.uuid).toBe(store);
    await until("the volume is UP again", async () => {
      return stateOf(await getLvol(second, idOf(made))) === "LVOL_STATE_UP";
    });
    const again = await getLvol(second, idOf(made));
    expect(again.status?.lvolUuid).toBe(made.status?.lvolUuid);
  });

  it("are not admitted with evidence against them, and an admission ends when a disk has changed", async () => {
    await using setup = await nodeWithDrives({ drives: [BLANK, MOUNTED], vfioPci: false });
    const agent = await setup.start({ STORAGE_NODE_DISK_POLICY: "manual" });
    await settled(agent, { SER1: "DISK_STATE_DISCOVERED", SER2: "DISK_STATE_IN_USE" });
    expect(await admit(agent, "SER2")).toMatchObject({ code: status.FAILED_PRECONDITION });
    await unmount(openTree(setup.kernel.root), "/data");
    expect(await admit(agent, "SER1")).toBe("OK");
    await setup.kernel.writeBytes("SER1", Buffer.from("XFSB"));
    // The module is not loaded, so it was not claimed yet.
    expect(await admit(agent, "SER1")).toMatchObject({ details: expect.stringContaining("xfs") });
    const after = await disksOf(agent);
    const condition = after.get("SER1")?.conditions.find(({ type }) => type === "Admitted");
    expect(condition).toMatchObject({ reason: "EvidenceChanged" });
    await setup.kernel.writeBytes("SER1", Buffer.alloc(4));
    await loadVfioPci(setup.kernel.root);
    expect(await admit(agent, "SER2")).toBe("OK");
    await settled(agent, { SER2: "DISK_STATE_UP" });
    expect(await driverAt(setup.kernel, BLANK.address)).toBe("nvme");
  });
});
