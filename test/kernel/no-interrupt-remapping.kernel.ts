// A machine whose IOMMU does not remap interrupts: vfio-pci takes a drive there, and only the target's
// attach fails.
import { afterAll, beforeAll, expect, inject, it } from "vitest";
import { until } from "../support/agent.ts";
import { admit, controllersOf, settled } from "../support/drives.ts";
import { blank, simulatedDisks } from "./drives.ts";
import { driverOf } from "./guest-drives.ts";
import { guestNode, type GuestNode } from "./guest-node.ts";

const BLANK = blank("KTBLANK", "4");
const HAS_REAL_TARGET = inject("guest").spdkTarget !== undefined;

const stack = new AsyncDisposableStack();
let node: GuestNode;

beforeAll(async () => {
  node = stack.use(
    await guestNode({
      drives: [BLANK],
      disks: simulatedDisks([BLANK]),
      iommu: "without interrupt remapping",
    }),
  );
  await node.startAgent();
  await settled(node, { KTBLANK: "DISK_STATE_DISCOVERED" });
});

afterAll(async () => await stack.disposeAsync());

it.skipIf(HAS_REAL_TARGET)("lets vfio-pci take a blank drive", async () => {
  expect(await admit(node, BLANK.serial)).toBe("OK");
  await settled(node, { KTBLANK: "DISK_STATE_UP" });
  expect(await driverOf(node.machine, BLANK)).toBe("vfio-pci");
});

it.runIf(HAS_REAL_TARGET)(
  "gives the drive back and names interrupt remapping (needs a real target)",
  async () => {
    expect(await admit(node, BLANK.serial)).toBe("OK");
    await settled(node, { KTBLANK: "DISK_STATE_FAILED" });
    await until("the kernel has it again", async () => {
      return (await driverOf(node.machine, BLANK)) === "nvme";
    });
    expect(await controllersOf(node)).toMatchObject([
      { state: "FAILED", stateReason: expect.stringContaining("nterrupt remapping") },
    ]);
  },
);
