// `storage-node disk` and `storage-node delete`: each step of replacing a drive, on a simulated kernel.
import { describe, expect, it } from "vitest";
import { run } from "../../src/cli/cli.ts";
import {
  diskIdOf,
  diskOf,
  drive,
  driverAt,
  GIB,
  nodeWithDrives,
  settled,
} from "../support/drives.ts";
import { claim } from "../support/kernel-scenario.ts";
import { releaseFunctions } from "../../src/sysfs/vfio.ts";
import { storageNode } from "../support/explain.ts";
import { REAL_SOCKET } from "../support/target.ts";
import { idOf, provision } from "../support/volumes.ts";
import type { TestAgent } from "../support/agent.ts";

const ID = "66666666-7777-5888-8999-aaaaaaaaaaaa";
const MANUAL = { STORAGE_NODE_DISK_POLICY: "manual" };
const XFS = { bytes: [{ at: 0n, data: Buffer.from("XFSB", "latin1") }] };

const at = ({ address }: TestAgent) => ["--address", address];

describe("the arguments of disk and delete", () => {
  it.each<readonly [readonly string[], string]>([
    [["disk"], "must be one of list, show"],
    [["disk", "frob"], "must be one of list, show"],
    [["disk", "show"], "needs the id of a disk"],
    [["disk", "list", ID], "is not an argument"],
    [["disk", "show", "SER1"], "is not an id"],
    [["disk", "show", ID, "again"], "is not an argument"],
    [["disk", "show", ID, "--force"], '--force is no option of "disk show"'],
    [["disk", "locate", ID], "needs on or off"],
    [["disk", "locate", ID, "maybe"], "needs on or off"],
    [["disk", "cordon", ID], "--reason must be given"],
    [["disk", "wipe", ID], "--reason must be given"],
    [["disk", "release", ID, "--force"], "--reason must be given"],
    [["disk", "wipe", ID, "--reason", "x", "--confirm", "y"], "--confirm needs --fingerprint"],
    [["disk", "admit", ID, "--wait", "long"], "--wait must be a number of seconds"],
    [["delete"], "exactly one volume id"],
    [["delete", ID, "--force"], "--force needs --reason"],
    [["delete", "one"], "is not an id"],
  ])("%j ends with 64 and says what is wrong", async (args, message) => {
    let err = "";
    const io = { env: {}, signal: new AbortController().signal, stdout: () => {} };
    expect(await run(args, { ...io, stderr: (text) => (err += text) })).toBe(64);
    expect(err).toContain(message);
  });
});

describe.skipIf(REAL_SOCKET !== undefined)("storage-node disk", () => {
  it("does each step of replacing a drive, and makes a used one fit for it", async () => {
    await using node = await nodeWithDrives(
      { drives: [{ ...drive(1), locate: "port" }, drive(2, XFS)] },
      [drive(3)],
    );
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_DISCOVERED", SER2: "DISK_STATE_FOREIGN" });
    const [first, second] = [await diskIdOf(agent, "SER1"), await diskIdOf(agent, "SER2")];
    const disk = async (...args: readonly string[]) =>
      await storageNode(["disk", ...args, ...at(agent)]);
    const done = { code: 0, err: "" };
    expect(await disk("admit", first, "--wait", "60")).toMatchObject(done);
    const made = await provision(agent, { sizeBytes: GIB });
    const list = await disk("list");
    expect(list.out).toMatch(new RegExp(`${first} +SER1 +UP +4 GiB +PCIe 0000:01:00.0`));
    expect(list.out).toMatch(/SER2 +FOREIGN .*SIGNATURE/);
    // The drive goes.
    expect(await disk("cordon", first, "--reason", "worn out")).toMatchObject(done);
    expect((await disk("show", first)).out).toContain("it takes no new volumes");
    expect((await disk("list")).out).toMatch(/SER1 +UP .*cordoned/);
    const refused = await disk("release", first);
    expect(refused).toMatchObject({ code: 1, err: expect.stringContaining("it holds 1 volume") });
    const gone = await storageNode(["delete", idOf(made), "--wait", "60", ...at(agent)]);
    expect(gone).toMatchObject({ code: 0, out: expect.stringContaining("is deleted") });
    expect(await disk("release", first, "--wait", "60")).toMatchObject({
      code: 0,
      out: expect.stringContaining("disk SER1 is RELEASED"),
    });
    const lit = await disk("locate", first, "on");
    expect(lit).toMatchObject({ code: 0, out: "the LED of 0000:01:00.0 is on (npem)\n" });
    // Another one comes, which was used for something else.
    const shown = await disk("show", second, "--output", "json");
    const parsed: unknown = JSON.parse(shown.out);
    const fingerprint = (await diskOf(agent, "SER2"))?.evidenceFingerprint ?? "";
    expect(parsed).toMatchObject({ disk: { status: { evidenceFingerprint: fingerprint } } });
    expect((await disk("show", second)).out).toContain(fingerprint);
    const confirm = ["--confirm", "destroy all data on SER2", "--fingerprint", fingerprint];
    const wiped = await disk("wipe", second, "--reason", "ours", ...confirm, "--wait", "60");
    expect(wiped).toMatchObject({ ...done, out: expect.stringContaining("SER2 is DISCOVERED") });
    expect(await disk("admit", second, "--wait", "60")).toMatchObject(done);
    expect(await driverAt(node, "0000:02:00.0")).toBe("vfio-pci");
    expect((await disk("locate", second, "on")).err).toContain("shows no LED");
  });

  it("asks before it wipes, and does not without the whole sentence", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1, XFS)] });
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_FOREIGN" });
    const id = await diskIdOf(agent, "SER1");
    const args = ["disk", "wipe", id, "--reason", "ours", "--wait", "60", ...at(agent)];
    const admitted = await storageNode(["disk", "admit", id, ...at(agent)]);
    expect(admitted.code).toBe(1);
    expect(admitted.err).toContain(`\n"storage-node explain disk ${id}" says what to do`);
    const without = await storageNode(args);
    expect(without).toMatchObject({ code: 1, err: expect.stringContaining("use --confirm") });
    const hasty = await storageNode(args, { typed: "yes" });
    expect(hasty).toMatchObject({ code: 1, err: expect.stringContaining("nothing was wiped") });
    expect(hasty.out).toMatch(/^SER1, KERNEL DISK, 4 GiB, at 0000:01:00.0:\n/);
    expect(hasty.out).toContain("SIGNATURE SER1/1 xfs");
    expect((await diskOf(agent, "SER1"))?.state).toBe("DISK_STATE_FOREIGN");
    const stale = ["--confirm", "destroy all data on SER1", "--fingerprint", "0"];
    expect((await storageNode([...args, ...stale])).err).toContain("fingerprint is not 0 any more");
    const other = await storageNode([...args, "--serial", "SER9"], {
      typed: "destroy all data on SER9",
    });
    expect(other.err).toContain("has serial number SER1, not SER9");
    const said = await storageNode(args, { typed: "destroy all data on SER1" });
    expect(said).toMatchObject({ code: 0, err: "" });
    expect((await diskOf(agent, "SER1"))?.evidence).toEqual([]);
  });

  it("lists what lies in the store of somebody else, and adopts the store that is named", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1)] });
    const { spdk } = node.target;
    await claim(node.kernel.kernel, "0000:01:00.0");
    const path = { trtype: "PCIe", traddr: "0000:01:00.0" } as const;
    const [bdevName = ""] = await spdk.bdevNvmeAttachController({ name: "x", ...path });
    const clearMethod = "none";
    const shape = { clusterBytes: 4n * 1024n ** 2n, clearMethod } as const;
    const lvsUuid = await spdk.bdevLvolCreateLvstore({ bdevName, lvsName: "lvs0", ...shape });
    const volume = { lvolName: ID, sizeBytes: 4n * 1024n ** 2n, thin: true, clearMethod } as const;
    await spdk.bdevLvolCreate({ lvsUuid, ...volume });
    await spdk.bdevNvmeDetachController("x");
    await releaseFunctions(node.kernel.kernel, [{ address: "0000:01:00.0", driver: "nvme" }]);
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_FOREIGN" });
    const args = ["disk", "adopt", await diskIdOf(agent, "SER1"), "--wait", "60", ...at(agent)];
    const listed = await storageNode(args);
    expect(listed).toMatchObject({ code: 0, err: "" });
    expect(listed.out).toContain(`store lvs0, uuid ${lvsUuid}`);
    expect(listed.out).toMatch(new RegExp(`volume +${ID} +4 MiB`));
    expect(listed.out).toContain(`storage-node ${args.slice(0, 3).join(" ")} --store ${lvsUuid}\n`);
    expect(await storageNode([...args, "--store", lvsUuid])).toMatchObject({
      code: 0,
      out: expect.stringMatching(/^disk SER1 is UP/),
    });
  });

  it("lists the drives that show no disk, with the reason, and admits one of them by its address", async () => {
    const bound = { ...drive(1), driver: "vfio-pci" } as const;
    await using node = await nodeWithDrives({ drives: [bound, drive(2)] });
    const agent = await node.start(MANUAL);
    await settled(agent, { SER2: "DISK_STATE_DISCOVERED" });
    const list = async () => (await storageNode(["disk", "list", ...at(agent)])).out;
    const [disks = "", others = ""] = (await list()).split("\nwithout a disk of this node:\n");
    expect(disks).toContain("SER2");
    expect(others).toMatch(/^address .*\n0000:01:00.0 +\? +vfio-pci +UNIDENTIFIED .*AdmitDisk/);
    expect(others).not.toContain("0000:02:00.0");
    const admitted = await storageNode(["disk", "admit", bound.address, ...at(agent)]);
    expect(admitted).toMatchObject({ code: 0, err: "" });
    expect(admitted.out).toMatch(/goes back to its kernel driver|disk SER1 is/);
    await settled(agent, { SER1: "DISK_STATE_UP" });
    expect(await list()).not.toContain("without a disk");
  });

  it("ends with 1 if what it waits for does not come, and says how it stands", async () => {
    await using node = await nodeWithDrives({ drives: [drive(1)], vfioPci: false });
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_DISCOVERED" });
    const id = await diskIdOf(agent, "SER1");
    const admitted = await storageNode(["disk", "admit", id, "--wait", "0", ...at(agent)]);
    expect(admitted).toMatchObject({
      code: 1,
      err: expect.stringContaining(
        `admit is not done yet: "storage-node explain disk ${id}" says what it waits for`,
      ),
    });
    const volume = await storageNode(["delete", ID, ...at(agent)]);
    expect(volume).toMatchObject({ code: 0, out: expect.stringContaining("is deleted") });
  });
});
