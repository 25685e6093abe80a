// WipeDisk: what a disk is recognised by is destroyed under its kernel driver, once and only as it was asked
// for. Uses a simulated kernel, and a target that attaches what that has.
import { open } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it, vi } from "vitest";
import { imagePath } from "../../src/sim/kernel/hardware.ts";
import { openTree } from "../../src/sim/kernel/tree.ts";
import { putToUse, unmount } from "../../src/sim/kernel/use.ts";
import type { KernelSpec, SimulatedDrive } from "../../src/sim/kernel/build-tree.ts";
import { call, refusal, until } from "../support/agent.ts";
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
  wipe,
  type AskedWipe,
  type NodeWithDrives,
} from "../support/drives.ts";
import { REAL_SOCKET } from "../support/target.ts";
import { idOf, provision, remove, WAIT } from "../support/volumes.ts";

const MANUAL = { STORAGE_NODE_DISK_POLICY: "manual" };
const MIB = 1024n ** 2n;
const XFS = { at: 0n, data: Buffer.from("XFSB", "latin1") };
const RAID = { at: 4n * GIB - 64n * 1024n, data: Buffer.from("fc4e2ba9", "hex") };
const PARTS = [{ startBytes: MIB, sizeBytes: GIB }] as const;

const spec = (...drives: readonly SimulatedDrive[]): KernelSpec => ({ drives });

async function bytesOf({ kernel }: NodeWithDrives, serial: string, at: bigint, length: number) {
  await using file = await open(join(kernel.root, imagePath(serial, 1)));
  const { buffer } = await file.read(Buffer.alloc(length), 0, length, Number(at));
  return buffer;
}

const isZero = (bytes: Buffer) => bytes.every((byte) => byte === 0);

describe.skipIf(REAL_SOCKET !== undefined)("WipeDisk", () => {
  it("makes a partitioned disk blank, which is not admitted by itself, and then UP by AdmitDisk", async () => {
    await using node = await nodeWithDrives(
      spec(drive(1, { partitions: PARTS, bytes: [RAID] }), drive(2)),
      [drive(3)],
    );
    // Policy auto: the other one shows when it would have been taken.
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_FOREIGN", SER2: "DISK_STATE_UP" });
    const { disk } = await wipe(agent, "SER1");
    expect(disk?.status?.evidence).toEqual([]);
    expect(disk?.status?.conditions.some(({ type }) => type === "Wiped")).toBe(false);
    // Nothing of what was on it, nor of a store that it does not have.
    const of = (wanted: string) => disk?.status?.conditions.find(({ type }) => type === wanted);
    expect(of("Attached")?.message).toBe("not admitted");
    expect(of("FreeSpaceZeroed")).toMatchObject({
      reason: "NoStore",
      message: "it has no lvstore",
    });
    expect(disk?.spec?.admitted).toBe(false);
    expect(isZero(await bytesOf(node, "SER1", 0n, 16 * 1024 * 1024))).toBe(true);
    expect(isZero(await bytesOf(node, "SER1", 4n * GIB - 16n * MIB, 16 * 1024 * 1024))).toBe(true);
    // A drive that is plugged in later is taken meanwhile, and this one is not.
    await node.kernel.kernel.plugIn(drive(3));
    await settled(agent, { SER1: "DISK_STATE_DISCOVERED", SER3: "DISK_STATE_UP" });
    expect(await driverAt(node, "0000:01:00.0")).toBe("nvme");
    expect(await wipe(agent, "SER1", { fingerprint: "as before" })).toMatchObject({
      disk: { status: { state: "DISK_STATE_DISCOVERED" } },
    });
    expect(await admit(agent, "SER1")).toBe("OK");
    await settled(agent, { SER1: "DISK_STATE_UP" });
  });

  it("is told in events, with who asked, why, and that it is done", async () => {
    await using node = await nodeWithDrives(spec(drive(1, { bytes: [XFS] })));
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_FOREIGN" });
    const { disk } = await wipe(agent, "SER1", { reason: "ticket 17" });
    const { client } = agent;
    const request = { pageSize: 0, pageToken: "", objectId: disk?.meta?.id ?? "" };
    const reasons = async () => {
      const { events } = await call(client, client.listEvents.bind(client), request);
      return events.map(({ reason, message, actor }) => ({ reason, message, asked: actor !== "" }));
    };
    await until("both are told", async () =>
      (await reasons()).some((one) => one.reason === "DISK_WIPED"),
    );
    expect(await reasons()).toContainEqual({
      reason: "WIPE_REQUESTED",
      message: "ticket 17",
      asked: true,
    });
  });

  it("is refused without its confirmation, for another disk, or with evidence that is not that of now", async () => {
    await using node = await nodeWithDrives(spec(drive(1, { bytes: [XFS] })));
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_FOREIGN" });
    const refused = async (asked: AskedWipe) => await refusal(wipe(agent, "SER1", asked));
    expect(await refused({ confirmation: "yes", reason: " " })).toMatchObject({
      reason: "INVALID_FIELD",
      fields: ["confirmation", "reason"],
    });
    expect((await refused({ serial: "OTHER" })).reason).toBe("SERIAL_MISMATCH");
    expect((await refused({ fingerprint: "f00" })).reason).toBe("EVIDENCE_CHANGED");
    await node.kernel.writeBytes("SER1", Buffer.from("hsqs"));
    // As it was seen before the call.
    expect((await refused({})).reason).toBe("EVIDENCE_CHANGED");
    expect(isZero(await bytesOf(node, "SER1", 0n, 512))).toBe(false);
  });

  it("is refused for a mounted disk, one that the target has, and of two that look the same", async () => {
    await using node = await nodeWithDrives(
      spec(
        drive(1, { partitions: [{ ...PARTS[0], use: { kind: "mount", at: "/data" } }] }),
        drive(2),
        drive(3, { bytes: [XFS] }),
        { ...drive(4, { bytes: [XFS] }), serial: "SER3", id: "double" },
      ),
    );
    const agent = await node.start();
    await settled(agent, {
      SER1: "DISK_STATE_IN_USE",
      SER2: "DISK_STATE_UP",
      SER3: "DISK_STATE_CONFLICT",
    });
    expect(await refusal(wipe(agent, "SER1"))).toMatchObject({
      reason: "HAS_EVIDENCE",
      metadata: { evidence: "MOUNTED" },
    });
    expect((await refusal(wipe(agent, "SER2"))).message).toContain("ReleaseDisk first");
    await provision(agent);
    expect((await refusal(wipe(agent, "SER2"))).message).toContain("1 volumes");
    const twin = await refusal(wipe(agent, "SER3", { fingerprint: "any" }));
    expect(twin.metadata).toEqual({ evidence: "DUPLICATE_SERIAL" });
    expect(isZero(await bytesOf(node, "SER1", 0n, 512))).toBe(false);
    expect(isZero(await bytesOf(node, "SER3", 0n, 512))).toBe(false);
  });

  it("makes a released disk of this node blank, which AdmitDisk then formats anew", async () => {
    await using node = await nodeWithDrives(spec(drive(1)));
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_UP" });
    const made = await provision(agent);
    const before = (await diskOf(agent, "SER1"))?.lvstore?.uuid;
    const { client } = agent;
    const diskId = await diskIdOf(agent, "SER1");
    const forced = { force: true, reason: "it fails", waitTimeout: WAIT };
    const released = { diskId, serial: "SER1", ...forced };
    await call(client, client.releaseDisk.bind(client), released);
    await settled(agent, { SER1: "DISK_STATE_RELEASED" });
    expect((await refusal(wipe(agent, "SER1"))).reason).toBe("IN_USE");
    await remove(agent, idOf(made));
    const { disk } = await wipe(agent, "SER1");
    expect(disk?.status).toMatchObject({ state: "DISK_STATE_RELEASED", evidence: [] });
    expect(disk?.status?.lvstore).toBeUndefined();
    expect(await admit(agent, "SER1")).toBe("OK");
    await settled(agent, { SER1: "DISK_STATE_UP" });
    const after = (await diskOf(agent, "SER1"))?.lvstore;
    expect(after).toMatchObject({ freeSpace: "FREE_SPACE_ZEROED" });
    expect(after?.uuid).not.toBe(before);
  });

  it("names the sibling in use that would lose its driver while the partitions are read anew", async () => {
    const namespace = { sizeBytes: 4n * GIB, blockSizeBytes: 4096 } as const;
    const used = { ...namespace, use: { kind: "swap" } } as const;
    await using node = await nodeWithDrives(
      spec(
        { ...drive(1), namespaces: [{ ...namespace, partitions: PARTS }, used] },
        { ...drive(2), namespaces: [{ ...namespace, bytes: [XFS] }, used] },
      ),
    );
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_IN_USE", SER2: "DISK_STATE_IN_USE" });
    const refused = await refusal(wipe(agent, "SER1"));
    expect(refused).toMatchObject({ reason: "HAS_EVIDENCE", metadata: { evidence: "SWAP" } });
    expect(refused.message).toContain("SER1/2");
    // Without partitions its driver stays where it is.
    await wipe(agent, "SER2");
    expect(isZero(await bytesOf(node, "SER2", 0n, 512))).toBe(true);
  });

  it("waits for a sibling that is put to use while the disk is zeroed, before its driver goes", async () => {
    const namespace = { sizeBytes: 4n * GIB, blockSizeBytes: 4096 } as const;
    const sibling = { nsid: 2, partition: 0 } as const;
    await using node = await nodeWithDrives(
      spec({ ...drive(1), namespaces: [{ ...namespace, partitions: PARTS }, namespace] }),
    );
    const tree = openTree(node.kernel.root);
    const { kernel } = node.kernel;
    const { openToWrite, write } = kernel;
    const unbinds: string[] = [];
    vi.spyOn(kernel, "write").mockImplementation(async (path, text) => {
      if (path.endsWith("/unbind")) unbinds.push(text);
      await write(path, text);
    });
    let mounted: Promise<void> | undefined;
    vi.spyOn(kernel, "openToWrite").mockImplementation(async (device) => {
      const opened = await openToWrite(device);
      if (opened === undefined) return undefined;
      const used = { kind: "mount", at: "/srv" } as const;
      return {
        ...opened,
        write: async (at, bytes) => {
          await (mounted ??= putToUse(tree, { address: "0000:01:00.0" }, sibling, used));
          await opened.write(at, bytes);
        },
      };
    });
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_FOREIGN" });
    await wipe(agent, "SER1", { seconds: 0 });
    await until("it waits, or is wiped", async () => {
      const wiped = await conditionOf(agent, "SER1", "Wiped");
      return mounted !== undefined && (!wiped || wiped.message.includes("MOUNTED SER1/2"));
    });
    expect(unbinds).toEqual([]);
    await unmount(tree, "/srv");
    await settled(agent, { SER1: "DISK_STATE_DISCOVERED" });
    expect(await conditionOf(agent, "SER1", "Wiped")).toBeUndefined();
    expect(unbinds).toEqual(["0000:01:00.0"]);
  });

  it("ends, and says why, if the disk changes between the call and the step", async () => {
    await using node = await nodeWithDrives(spec(drive(1, { bytes: [XFS] })));
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_FOREIGN" });
    const tree = openTree(node.kernel.root);
    const held = await node.kernel.kernel.openToWrite(await deviceOf(node));
    // Nobody else could be the one who uses it: an exclusive open is use.
    const { disk } = await wipe(agent, "SER1");
    const ended = disk?.status?.conditions.find(({ type }) => type === "Wiped");
    expect(ended).toMatchObject({
      reason: "NotDone",
      message: expect.stringContaining("EVIDENCE_CHANGED: EXCLUSIVE_OPEN_REFUSED"),
    });
    await held?.[Symbol.asyncDispose]();
    expect(isZero(await bytesOf(node, "SER1", 0n, 512))).toBe(false);
    // It is not tried again, whatever is seen then; a new call may.
    await putToUse(
      tree,
      { address: "0000:01:00.0" },
      { nsid: 1, partition: 0 },
      { kind: "mount", at: "/d" },
    );
    expect((await refusal(wipe(agent, "SER1"))).reason).toBe("HAS_EVIDENCE");
    await unmount(tree, "/d");
    // A call looks anew, and shows what it has seen.
    await refusal(wipe(agent, "SER1", { fingerprint: "of then" }));
    await settled(agent, { SER1: "DISK_STATE_FOREIGN" });
    expect((await conditionOf(agent, "SER1", "Wiped"))?.reason).toBe("NotDone");
    await wipe(agent, "SER1");
    expect(await conditionOf(agent, "SER1", "Wiped")).toBeUndefined();
  });
});

async function deviceOf({ kernel }: NodeWithDrives): Promise<string> {
  const names = await kernel.kernel.list("/sys/class/block");
  return `/dev/${names[0] ?? ""}`;
}
