// A target that was started so that vfio gives it no drive: each drive goes back to the kernel, the cause is
// named, and a target that was started well takes it.
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { until } from "../support/agent.ts";
import { admit, settled } from "../support/drives.ts";
import { blank, simulatedDisks } from "./drives.ts";
import { blockDevice, driverOf } from "./guest-drives.ts";
import { guestNode, type GuestNode } from "./guest-node.ts";
import { controllerAt } from "./seen.ts";

const HAS_REAL_TARGET = inject("guest").spdkTarget !== undefined;

const NO_HUGE = blank("KTNOHUGE", "4");
const MEMLOCK = blank("KTMEMLOCK", "5");
const DRIVES = [NO_HUGE, MEMLOCK];

describe.runIf(HAS_REAL_TARGET)("a target that can attach nothing (needs a real target)", () => {
  const stack = new AsyncDisposableStack();
  let node: GuestNode;

  beforeAll(async () => {
    node = stack.use(
      await guestNode({
        drives: DRIVES,
        disks: simulatedDisks(DRIVES),
        iommu: "on",
        // For the hugepages that it reserves, and for a target that uses none of them.
        memoryMib: 3_072,
      }),
    );
    await node.startAgent();
    await settled(node, { KTNOHUGE: "DISK_STATE_DISCOVERED", KTMEMLOCK: "DISK_STATE_DISCOVERED" });
  });

  afterAll(async () => await stack.disposeAsync());

  it.each([
    ["without hugepages", NO_HUGE, "spdk_tgt --no-huge -s 1024", "--no-huge"],
    [
      "with a memlock limit",
      MEMLOCK,
      // The kernel does not ask for the limit of a process that has this capability.
      "prlimit --memlock=67108864 setpriv --bounding-set=-ipc_lock spdk_tgt -s 640",
      "may lock only 67108864 bytes",
    ],
  ] as const)(
    "as it was started %s, gets no drive, and the cause is named",
    async (_what, drive, command, cause) => {
      const { machine } = node;
      await machine.sh("kill -9 $(cat /run/target.pid)");
      await node.startTarget(command);
      expect(await admit(node, drive.serial)).toBe("OK");
      await settled(node, { [drive.serial]: "DISK_STATE_FAILED" });
      await until("the kernel has it again", async () => {
        return (await blockDevice(machine, drive)) !== "";
      });
      expect(await driverOf(machine, drive)).toBe("nvme");
      expect(await controllerAt(node, drive)).toMatchObject({
        state: "FAILED",
        stateReason: expect.stringContaining(cause),
      });
      await machine.sh("kill -9 $(cat /run/target.pid)");
      await node.startTarget();
      await settled(node, { [drive.serial]: "DISK_STATE_UP" });
    },
  );
});
