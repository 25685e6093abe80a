// A machine without an IOMMU: no drive can be given to the target.
import { afterAll, beforeAll, expect, it } from "vitest";
import { until } from "../support/agent.ts";
import { admit, conditionOf, diskOf, settled } from "../support/drives.ts";
import { blank, simulatedDisks } from "./drives.ts";
import { driverOf } from "./guest-drives.ts";
import { guestNode, type GuestNode } from "./guest-node.ts";

const BLANK = blank("KTBLANK", "4");

const stack = new AsyncDisposableStack();
let node: GuestNode;

beforeAll(async () => {
  node = stack.use(
    await guestNode({ drives: [BLANK], disks: simulatedDisks([BLANK]), iommu: "off" }),
  );
  await node.startAgent();
  await settled(node, { KTBLANK: "DISK_STATE_DISCOVERED" });
});

afterAll(async () => await stack.disposeAsync());

it("says of a blank drive that the machine lacks an IOMMU, and leaves it to the kernel", async () => {
  await until("it was looked at", async () => {
    const disk = await diskOf(node, BLANK.serial);
    return disk?.evidence.some(({ kind }) => kind === "NO_IOMMU") === true;
  });
  // That says nothing against the disk, so it may be admitted for when there is one.
  expect(await admit(node, BLANK.serial)).toBe("OK");
  await until("it says why it is not taken", async () => {
    const claimed = await conditionOf(node, BLANK.serial, "Claimed");
    return claimed?.message.includes("NO_IOMMU") === true;
  });
  expect((await diskOf(node, BLANK.serial))?.state).not.toBe("DISK_STATE_FOREIGN");
  expect(await driverOf(node.machine, BLANK)).toBe("nvme");
});
