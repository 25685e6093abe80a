// The agent is killed at each kind of change that a wipe makes. The disk then shows what was on it, or the next
// agent finds it blank and knows that it is to be; either way it is wiped in the end, and never admitted.
import { describe, expect, it } from "vitest";
import type { SimulatedDrive } from "../../src/sim/kernel/build-tree.ts";
import type { SimulatedKernel } from "../../src/sim/kernel/simulated-kernel.ts";
import { gatherEvidence } from "../../src/sysfs/disk-evidence.ts";
import { listNvme } from "../../src/sysfs/nvme.ts";
import { call, until, type TestAgent } from "../support/agent.ts";
import { each } from "../support/crash-points.ts";
import { conditionOf, diskOf, drive, GIB, nodeWithDrives, settled } from "../support/drives.ts";
import { mortalKernel } from "../support/mortal-kernel.ts";
import { REAL_SOCKET } from "../support/target.ts";

const ADDRESS = "0000:01:00.0";
const DRIVE = drive(1, {
  partitions: [{ startBytes: 1024n ** 2n, sizeBytes: GIB }],
  bytes: [{ at: 4n * GIB - 64n * 1024n, data: Buffer.from("fc4e2ba9", "hex") }],
});

async function askToWipe({ client }: TestAgent): Promise<void> {
  const page = { pageSize: 0, pageToken: "" };
  const { disks } = await call(client, client.listDisks.bind(client), page);
  await call(client, client.wipeDisk.bind(client), {
    diskId: disks[0]?.meta?.id ?? "",
    serial: "SER1",
    evidenceFingerprint: disks[0]?.status?.evidenceFingerprint ?? "",
    reason: "to be used by this node",
    confirmation: "destroy all data on SER1",
    waitTimeout: undefined,
  });
}

/** The disk was not admitted, and is blank. */
async function isWiped(agent: TestAgent): Promise<boolean> {
  const disk = await diskOf(agent, "SER1");
  const pending = await conditionOf(agent, "SER1", "Wiped");
  return pending === undefined && disk?.state === "DISK_STATE_DISCOVERED";
}

/** The changes of a wipe without a death. */
async function changesOfWipe(one: SimulatedDrive): Promise<readonly string[]> {
  await using node = await nodeWithDrives({ drives: [one] });
  const kernel = mortalKernel(node.kernel.kernel);
  const agent = await node.start({}, { kernel });
  await settled(agent, { SER1: "DISK_STATE_FOREIGN" });
  await askToWipe(agent);
  await until("it is wiped", () => isWiped(agent));
  return kernel.changes;
}

/** Resolves with whether the disk showed what was on it when the agent was dead. */
async function killedAt(
  one: SimulatedDrive,
  nth: number,
  then: (agent: TestAgent, kernel: SimulatedKernel) => Promise<void> = async () => {},
): Promise<boolean> {
  await using node = await nodeWithDrives({ drives: [one] }, [drive(2)]);
  const { kernel } = node.kernel;
  const mortal = mortalKernel(kernel, nth);
  const first = await node.start({}, { kernel: mortal, timing: { stopMs: 20 } });
  await settled(first, { SER1: "DISK_STATE_FOREIGN" });
  await askToWipe(first);
  await mortal.died;
  await first[Symbol.asyncDispose]();
  const left = await gatherEvidence(kernel, await listNvme(kernel), ADDRESS);
  const second = await node.start();
  await until("it is wiped", () => isWiped(second));
  expect(await gatherEvidence(kernel, await listNvme(kernel), ADDRESS)).toEqual([]);
  await then(second, kernel);
  return left.length > 0;
}

describe.skipIf(REAL_SOCKET !== undefined)("an agent that is killed while it wipes a disk", () => {
  it("leaves it evident, and the next one ends what was begun, at each kind of change", async () => {
    const changes = await changesOfWipe(DRIVE);
    // The end, the beginning and the first block, each with all of it on the disk, then the driver.
    expect(changes.filter((change) => change === "sync")).toHaveLength(3);
    expect(changes.slice(-2)).toEqual(["unbind", "drivers_probe"]);
    const syncs = changes.flatMap((change, index) => (change === "sync" ? [index] : []));
    const [tail = 0, head = 0, block = 0] = syncs;
    const first = [0, tail, tail + 1, head, block - 1, block];
    await each([...first, changes.length - 2, changes.length - 1], async (nth) => {
      const isEvident = await killedAt(DRIVE, nth).catch((cause: unknown) => {
        throw new Error(`killed at change ${nth}, ${changes[nth]}`, { cause });
      });
      expect({ nth, isEvident }).toEqual({ nth, isEvident: true });
    });
  });

  it("leaves a blank disk that nobody has admitted, when all of it was zeroed already", async () => {
    const signed = drive(1, { bytes: [{ at: 0n, data: Buffer.from("XFSB", "latin1") }] });
    const changes = await changesOfWipe(signed);
    expect(changes.at(-1)).toBe("sync");
    const isEvident = await killedAt(signed, changes.length - 1, async (agent, kernel) => {
      // Policy auto takes a blank drive meanwhile, and not this one.
      await kernel.plugIn(drive(2));
      await settled(agent, { SER1: "DISK_STATE_DISCOVERED", SER2: "DISK_STATE_UP" });
    });
    expect(isEvident).toBe(false);
  });
});
