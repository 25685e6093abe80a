// Disks are wiped on a real kernel: under its nvme driver, through a descriptor that is exclusive there, with the
// partitions that it shows gone afterwards.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { refusal } from "../support/agent.ts";
import { admit, diskOf, settled, wipe } from "../support/drives.ts";
import { blank, simulatedDisks, type EmulatedDrive } from "./drives.ts";
import { blockDevice, driverOf, makeFileSystem, mount } from "./guest-drives.ts";
import { guestNode, type GuestNode } from "./guest-node.ts";
import { partitionTable } from "./written.ts";

const MIB = 1024n * 1024n;
const PARTITIONED: EmulatedDrive = {
  ...blank("KTPARTED", "5", 64n * MIB),
  written: [partitionTable(MIB, 48n * MIB)],
};
const SIGNED = blank("KTSIGNED", "6", 512n * MIB);
const MOUNTED = blank("KTMOUNTED", "7", 64n * MIB);

const stack = new AsyncDisposableStack();
let node: GuestNode;

beforeAll(async () => {
  const drives = [PARTITIONED, SIGNED, MOUNTED];
  const disks = simulatedDisks([PARTITIONED, SIGNED]);
  node = stack.use(await guestNode({ drives, disks, iommu: "on" }));
  await makeFileSystem(node.machine, SIGNED);
  await mount(node.machine, MOUNTED);
  await node.startAgent();
  await settled(node, {
    KTPARTED: "DISK_STATE_FOREIGN",
    KTSIGNED: "DISK_STATE_FOREIGN",
    KTMOUNTED: "DISK_STATE_IN_USE",
  });
});

afterAll(async () => await stack.disposeAsync());

/** Bytes other than zero at the beginning and at the end, as the drive has them. */
async function bytesLeft(drive: EmulatedDrive): Promise<string> {
  const device = await blockDevice(node.machine, drive);
  const mib = (drive.namespaces[0]?.sizeBytes ?? 0n) / MIB;
  const read = (skip: bigint) => `dd if=${device} bs=1M count=16 skip=${skip} iflag=direct`;
  const both = `${read(0n)}; ${read(mib - 16n)}`;
  return await node.machine.sh(`{ ${both}; } 2>/dev/null | tr -d '\\0' | wc -c`);
}

async function partitionsOf(drive: EmulatedDrive): Promise<string> {
  const device = await blockDevice(node.machine, drive);
  return await node.machine.sh(`cd /sys/class/block; ls -d $(basename ${device})p* || true`);
}

describe("WipeDisk", () => {
  it("makes a partitioned drive blank, and the kernel forget its partitions", async () => {
    expect(await partitionsOf(PARTITIONED)).toMatch(/^nvme\d+n1p1$/);
    const { disk } = await wipe(node, PARTITIONED.serial, { seconds: 60 });
    expect(disk?.status).toMatchObject({ state: "DISK_STATE_DISCOVERED", evidence: [] });
    expect(await partitionsOf(PARTITIONED)).toBe("");
    expect(await bytesLeft(PARTITIONED)).toBe("0");
    expect(await driverOf(node.machine, PARTITIONED)).toBe("nvme");
  });

  it("makes a drive with a file system fit to be admitted", async () => {
    await wipe(node, SIGNED.serial, { seconds: 60 });
    expect(await bytesLeft(SIGNED)).toBe("0");
    expect(await admit(node, SIGNED.serial)).toBe("OK");
    await settled(node, { KTSIGNED: "DISK_STATE_UP" });
  });

  it("is refused for a mounted drive, which keeps what is on it", async () => {
    expect(await refusal(wipe(node, MOUNTED.serial))).toMatchObject({
      reason: "HAS_EVIDENCE",
      metadata: { evidence: "MOUNTED" },
    });
    expect(await node.machine.sh("cat /mnt/KTMOUNTED/file")).toBe("kept");
    expect((await diskOf(node, MOUNTED.serial))?.state).toBe("DISK_STATE_IN_USE");
  });
});
