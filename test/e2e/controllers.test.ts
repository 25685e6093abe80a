// Controllers are what is taken and given back: what that means for the disks on them, for drives that are
// replaced or look the same, and for claims that fail. Uses a simulated kernel, and a target that attaches
// what that has at an address.
import { describe, expect, it } from "vitest";
import type { KernelSpec, SimulatedDrive } from "../../src/sim/kernel/build-tree.ts";
import { openGroup } from "../../src/sim/kernel/vfio-users.ts";
import {
  admit,
  conditionOf,
  controllersOf,
  diskOf,
  driverAt,
  drive,
  GIB,
  nodeWithDrives,
  settled,
  type NodeWithDrives,
} from "../support/drives.ts";
import { call, refusal, until, type TestAgent } from "../support/agent.ts";
import { explainDisk } from "../support/explain.ts";
import { REAL_SOCKET } from "../support/target.ts";
import { getLvol, idOf, provision, stateOf, WAIT } from "../support/volumes.ts";

const MANUAL = { STORAGE_NODE_DISK_POLICY: "manual" };
const NAMESPACE = { sizeBytes: 4n * GIB, blockSizeBytes: 4096 } as const;

const two = (index: number): SimulatedDrive => ({
  ...drive(index),
  namespaces: [NAMESPACE, NAMESPACE],
});

const spec = (...drives: readonly SimulatedDrive[]): KernelSpec => ({ drives });

/** Detaches that the target was asked for. */
async function detaches({ target }: NodeWithDrives): Promise<number> {
  await using control = await target.control();
  const counts = await control.counts();
  return counts["bdev_nvme_detach_controller"] ?? 0;
}

async function isUp(agent: TestAgent, id: string): Promise<boolean> {
  return stateOf(await getLvol(agent, id)) === "LVOL_STATE_UP";
}

describe.skipIf(REAL_SOCKET !== undefined)("a controller", () => {
  it("with two namespaces makes both UP, whichever is admitted first", async () => {
    await using node = await nodeWithDrives(spec(two(1)));
    const agent = await node.start(MANUAL);
    await until("both are found", async () => (await diskOf(agent, "SER1", 2)) !== undefined);
    expect(await admit(agent, "SER1")).toBe("OK");
    await settled(agent, { SER1: "DISK_STATE_UP" });
    const made = await provision(agent);
    expect(await admit(agent, "SER1", 2)).toBe("OK");
    await until("the second one is UP", async () => {
      return (await diskOf(agent, "SER1", 2))?.state === "DISK_STATE_UP";
    });
    expect(await isUp(agent, idOf(made))).toBe(true);
    expect(await detaches(node)).toBe(0);
  });

  it("is not let go under a volume when its other namespace is admitted after a restart", async () => {
    await using node = await nodeWithDrives(spec(two(1)));
    const first = await node.start(MANUAL);
    await until("both are found", async () => (await diskOf(first, "SER1", 2)) !== undefined);
    expect(await admit(first, "SER1")).toBe("OK");
    await settled(first, { SER1: "DISK_STATE_UP" });
    const made = await provision(first);
    await first[Symbol.asyncDispose]();
    // What is on the second namespace was looked at by a process that is gone.
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_UP" });
    expect(await admit(agent, "SER1", 2)).toMatchObject({
      details: expect.stringContaining("cannot be looked at"),
    });
    expect(await isUp(agent, idOf(made))).toBe(true);
    expect(await driverAt(node, "0000:01:00.0")).toBe("vfio-pci");
    expect(await detaches(node)).toBe(0);
  });

  it("is claimed with all drives of its IOMMU group once each is admitted", async () => {
    const group = { iommuGroup: "7" };
    await using node = await nodeWithDrives(
      spec({ ...drive(1), ...group }, { ...drive(2), ...group }),
    );
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_DISCOVERED", SER2: "DISK_STATE_DISCOVERED" });
    expect(await admit(agent, "SER1")).toBe("OK");
    await until("it waits for the other one", async () => {
      const reason = (await conditionOf(agent, "SER1", "Claimed"))?.message ?? "";
      return reason.includes("0000:02:00.0") && reason.includes("none of its disks is admitted");
    });
    expect(await driverAt(node, "0000:01:00.0")).toBe("nvme");
    expect(await admit(agent, "SER2")).toBe("OK");
    await settled(agent, { SER1: "DISK_STATE_UP", SER2: "DISK_STATE_UP" });
  });

  it("that the agent has taken is not handed back by a call that names its address", async () => {
    const group = { iommuGroup: "7" };
    await using node = await nodeWithDrives(
      spec({ ...drive(1), ...group }, { ...drive(2), ...group }),
    );
    const first = await node.start();
    const bothUp = { SER1: "DISK_STATE_UP", SER2: "DISK_STATE_UP" };
    await settled(first, bothUp);
    await first[Symbol.asyncDispose]();
    await node.target.restart();
    await using control = await node.target.control();
    const method = "bdev_nvme_attach_controller";
    const { stopped } = await control.stopAt({ when: "before", method, nth: 1 });
    const agent = await node.start();
    await stopped;
    const { rows } = agent.node.agent;
    await until("both are CLAIMED", () =>
      [...rows.controllers()].every(({ state }) => state === "CLAIMED"),
    );
    expect(await admit(agent, "", 1, "0000:01:00.0")).toMatchObject({
      details: expect.stringContaining("name its disks by their ids"),
    });
    await control.resume();
    await settled(agent, bothUp);
    await node.target.restart();
    await settled(agent, bothUp);
  });

  it("that shares its namespace with another one is taken together with that", async () => {
    const ports = [drive(1), { ...drive(2), serial: "SER1", id: "SER1" }];
    await using node = await nodeWithDrives(
      spec(...ports.map((port) => ({ ...port, subsystem: "dual" }))),
    );
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_UP" });
    expect(await driverAt(node, "0000:01:00.0")).toBe("vfio-pci");
    expect(await driverAt(node, "0000:02:00.0")).toBe("vfio-pci");
    const made = await provision(agent);
    await node.target.restart();
    await until("the volume is UP again", async () => isUp(agent, idOf(made)));
    expect(await node.target.spdk.bdevNvmeGetControllers()).toHaveLength(1);
  });
});

describe.skipIf(REAL_SOCKET !== undefined)("a drive", () => {
  it("that replaces another one in its slot is taken, and the other one stays MISSING", async () => {
    await using node = await nodeWithDrives(spec(drive(1)), [drive(2)]);
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_UP" });
    await agent[Symbol.asyncDispose]();
    await node.target.kill();
    await node.kernel.kernel.unplug("0000:01:00.0");
    await node.kernel.kernel.plugIn({ ...drive(2), address: "0000:01:00.0", iommuGroup: "1" });
    await node.target.restart();
    const second = await node.start();
    await settled(second, { SER1: "DISK_STATE_MISSING", SER2: "DISK_STATE_UP" });
    const made = await provision(second);
    await second[Symbol.asyncDispose]();
    await node.target.restart();
    const third = await node.start();
    await settled(third, { SER1: "DISK_STATE_MISSING", SER2: "DISK_STATE_UP" });
    await until("the volume is UP again", async () => isUp(third, idOf(made)));
    expect(await detaches(node)).toBe(0);
  });

  it("that replaces another one is looked at anew when its claim is cut off, whatever was there before", async () => {
    await using node = await nodeWithDrives(spec(drive(1)), [drive(2)]);
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_UP" });
    await agent[Symbol.asyncDispose]();
    await node.target.kill();
    await node.kernel.kernel.unplug("0000:01:00.0");
    await node.kernel.kernel.plugIn({ ...drive(2), address: "0000:01:00.0", iommuGroup: "1" });
    await node.target.restart();
    {
      await using control = await node.target.control();
      const method = "bdev_nvme_attach_controller";
      const { stopped } = await control.stopAt({ when: "before", method, nth: 1 });
      const second = await node.start();
      await stopped;
      // It is on vfio-pci, and who has found it blank is gone.
      await node.target.kill();
      await second[Symbol.asyncDispose]();
    }
    await node.target.restart();
    const third = await node.start();
    await settled(third, { SER1: "DISK_STATE_MISSING", SER2: "DISK_STATE_UP" });
    expect(await detaches(node)).toBe(0);
  });

  it("that another one has replaced is found elsewhere, although its place is taken", async () => {
    await using node = await nodeWithDrives(spec(drive(1)), [drive(2)]);
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_UP" });
    const made = await provision(agent);
    await agent[Symbol.asyncDispose]();
    await node.target.kill();
    await node.kernel.kernel.unplug("0000:01:00.0");
    await node.kernel.kernel.plugIn({ ...drive(2), address: "0000:01:00.0", iommuGroup: "1" });
    await node.target.restart();
    const second = await node.start();
    await settled(second, { SER1: "DISK_STATE_MISSING", SER2: "DISK_STATE_UP" });
    const bound = { iommuGroup: "9", driver: "vfio-pci" } as const;
    await node.kernel.kernel.plugIn({ ...drive(1), address: "0000:09:00.0", ...bound });
    await settled(second, { SER1: "DISK_STATE_UP", SER2: "DISK_STATE_UP" });
    expect((await diskOf(second, "SER1"))?.address).toBe("0000:09:00.0");
    expect((await diskOf(second, "SER2"))?.address).toBe("0000:01:00.0");
    await until("the volume is UP again", async () => isUp(second, idOf(made)));
    expect(await detaches(node)).toBe(0);
  });

  it("keeps its state while a double of it is plugged in, which is not taken", async () => {
    await using node = await nodeWithDrives(spec(drive(1)));
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_UP" });
    const made = await provision(agent);
    await node.kernel.kernel.plugIn({ ...drive(2), serial: "SER1", id: "double" });
    await until("the conflict shows", async () => {
      const conflict = await conditionOf(agent, "SER1", "Conflict");
      return conflict?.message.includes("0000:01:00.0 and 0000:02:00.0") === true;
    });
    expect((await diskOf(agent, "SER1"))?.state).toBe("DISK_STATE_UP");
    expect((await diskOf(agent, "SER1"))?.address).toBe("0000:01:00.0");
    expect(await driverAt(node, "0000:02:00.0")).toBe("nvme");
    // It is attached again where it was.
    await node.target.restart();
    await until("the volume is UP again", async () => isUp(agent, idOf(made)));
    expect(await driverAt(node, "0000:02:00.0")).toBe("nvme");
    // Nor does another agent take the double for it, which sees only that one in the kernel.
    await agent[Symbol.asyncDispose]();
    await node.target.restart();
    const second = await node.start();
    await until("the volume is UP once more", async () => isUp(second, idOf(made)));
    expect((await diskOf(second, "SER1"))?.address).toBe("0000:01:00.0");
    expect((await conditionOf(second, "SER1", "Conflict"))?.message).toContain("0000:02:00.0");
    expect(await driverAt(node, "0000:02:00.0")).toBe("nvme");
    expect(await detaches(node)).toBe(0);
  });

  it("of two that look the same is taken by none, and both are named", async () => {
    await using node = await nodeWithDrives(
      spec(drive(1), { ...drive(2), serial: "SER1", id: "double" }),
    );
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_CONFLICT" });
    expect(await admit(agent, "SER1")).toMatchObject({
      details: expect.stringContaining("0000:01:00.0 and 0000:02:00.0"),
    });
    expect(await driverAt(node, "0000:01:00.0")).toBe("nvme");
    expect(await driverAt(node, "0000:02:00.0")).toBe("nvme");
    await node.kernel.kernel.unplug("0000:02:00.0");
    await settled(agent, { SER1: "DISK_STATE_UP" });
  });

  it("with another NGUID than before is another one, whatever its serial is", async () => {
    const named = (nguid: string) => ({ namespaces: [{ ...NAMESPACE, nguid }] });
    await using node = await nodeWithDrives(spec({ ...drive(1), ...named("1".repeat(32)) }));
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_DISCOVERED" });
    await node.kernel.kernel.unplug("0000:01:00.0");
    const other = { ...drive(1), id: "other", ...named("2".repeat(32)) };
    await node.kernel.kernel.plugIn(other);
    await settled(agent, { SER1: "DISK_STATE_CONFLICT" });
    expect((await diskOf(agent, "SER1"))?.conditions).toContainEqual(
      expect.objectContaining({ type: "Conflict", message: expect.stringContaining("NGUID") }),
    );
  });
});

describe.skipIf(REAL_SOCKET !== undefined)("a claim that fails", () => {
  it("gives the drive back, says why, and is tried again when it is admitted anew", async () => {
    await using node = await nodeWithDrives(spec(drive(1)));
    await using control = await node.target.control();
    const refused = { code: -19, message: "No such device", always: true };
    await control.ask({ op: "fail", method: "bdev_nvme_attach_controller", ...refused });
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_FAILED" });
    await until("it is given back", async () => {
      return (await controllersOf(agent))[0]?.driver === "nvme";
    });
    const [controller] = await controllersOf(agent);
    expect(controller).toMatchObject({
      state: "FAILED",
      stateReason: expect.stringContaining("answered -19 (No such device)"),
    });
    const [row] = [...agent.node.agent.rows.disks()];
    const { summary, nextStep } = await explainDisk(agent, row?.id ?? "");
    expect(summary).toMatch(
      /answered -19 .*; its controller was given back .* is tried again at 20/,
    );
    expect(nextStep).toMatch(/^nothing: is tried again at 20/);
    await agent[Symbol.asyncDispose]();
    // Its time has not come: a new process does not begin anew.
    const second = await node.start();
    await settled(second, { SER1: "DISK_STATE_FAILED" });
    expect(await driverAt(node, "0000:01:00.0")).toBe("nvme");
    await control.ask({ op: "clear_rules" });
    expect(await admit(second, "SER1")).toBe("OK");
    await settled(second, { SER1: "DISK_STATE_UP" });
  });

  it("is no matter of the drive that is put in its place while no agent runs", async () => {
    await using node = await nodeWithDrives(spec(drive(1), drive(2)));
    await using control = await node.target.control();
    const refused = { code: -19, message: "No such device", always: true };
    await control.ask({ op: "fail", method: "bdev_nvme_attach_controller", ...refused });
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_FAILED", SER2: "DISK_STATE_FAILED" });
    await until("both are given back", async () => {
      return (await controllersOf(agent)).every(({ driver }) => driver === "nvme");
    });
    await agent[Symbol.asyncDispose]();
    const { kernel } = node.kernel;
    await kernel.unplug("0000:01:00.0");
    await kernel.unplug("0000:02:00.0");
    await kernel.plugIn({ ...drive(2), address: "0000:01:00.0", iommuGroup: "1" });
    await control.ask({ op: "clear_rules" });
    const second = await node.start();
    await settled(second, { SER1: "DISK_STATE_MISSING", SER2: "DISK_STATE_UP" });
    expect(await driverAt(node, "0000:01:00.0")).toBe("vfio-pci");
  });

  it("also of a disk with volumes, which comes back with another process of the target", async () => {
    await using node = await nodeWithDrives(spec(drive(1)));
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_UP" });
    const made = await provision(agent);
    await agent[Symbol.asyncDispose]();
    await node.target.restart();
    {
      await using control = await node.target.control();
      const refused = { code: -19, message: "No such device", always: true };
      await control.ask({ op: "fail", method: "bdev_nvme_attach_controller", ...refused });
    }
    const second = await node.start();
    await settled(second, { SER1: "DISK_STATE_FAILED" });
    await until("it is given back", async () => (await driverAt(node, "0000:01:00.0")) === "nvme");
    await node.target.restart();
    await settled(second, { SER1: "DISK_STATE_UP" });
    await until("the volume is UP again", async () => isUp(second, idOf(made)));
    expect(await driverAt(node, "0000:01:00.0")).toBe("vfio-pci");
  });

  it("as the disk is too small for a store has touched nothing", async () => {
    const small = { ...drive(1), namespaces: [{ sizeBytes: 1024n * 1024n }] };
    await using node = await nodeWithDrives(spec(small));
    const agent = await node.start();
    await until("it says so", async () => {
      const claimed = await conditionOf(agent, "SER1", "Claimed");
      return claimed?.message.includes("DISK_TOO_SMALL") === true;
    });
    expect(await driverAt(node, "0000:01:00.0")).toBe("nvme");
  });

  it("when the target refuses to format the disk gives it back", async () => {
    await using node = await nodeWithDrives(spec(drive(1)));
    await using control = await node.target.control();
    const refused = { code: -32602, message: "Operation not permitted", always: true };
    await control.ask({ op: "fail", method: "bdev_lvol_create_lvstore", ...refused });
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_FAILED" });
    await until("it is given back", async () => (await driverAt(node, "0000:01:00.0")) === "nvme");
    expect((await diskOf(agent, "SER1"))?.state).toBe("DISK_STATE_FAILED");
  });
});

describe.skipIf(REAL_SOCKET !== undefined)(
  "a function that is on vfio-pci before the agent starts",
  () => {
    const bound = { ...drive(1), driver: "vfio-pci" as const };

    it("is UNIDENTIFIED, and is handed back, looked at and taken when a call names its address", async () => {
      await using node = await nodeWithDrives(spec(bound, drive(2)));
      const agent = await node.start();
      await settled(agent, { SER2: "DISK_STATE_UP" });
      const [controller] = await controllersOf(agent);
      expect(controller).toMatchObject({
        address: bound.address,
        state: "UNIDENTIFIED",
        diskIds: [],
      });
      expect(await admit(agent, "", 1, bound.address)).toBe("OK");
      await settled(agent, { SER1: "DISK_STATE_UP" });
    });

    it("is taken only if it has the serial that the call names, also by another agent", async () => {
      await using node = await nodeWithDrives(spec(bound));
      const first = await node.start(MANUAL);
      const { rows } = first.node.agent;
      await until("it is listed", () => rows.controller(bound.address)?.state === "UNIDENTIFIED");
      expect(await admit(first, "ANOTHER", 1, bound.address)).toBe("OK");
      await first[Symbol.asyncDispose]();
      const agent = await node.start(MANUAL);
      const asked = (serial: string) => {
        const { client } = agent;
        const unset = { diskId: "", evidenceFingerprint: "", discardZeroes: false };
        const request = { ...unset, address: bound.address, serial, waitTimeout: WAIT };
        return call(client, client.admitDisk.bind(client), request);
      };
      const refused = await refusal(asked("ANOTHER"));
      expect(refused).toMatchObject({ reason: "SERIAL_MISMATCH" });
      expect(refused.message).toContain("SER1");
      expect([...agent.node.agent.rows.disks()].map(({ admitted }) => admitted)).toEqual([false]);
      // Now that it is shown, it is refused at once.
      expect((await refusal(asked("ANOTHER"))).reason).toBe("SERIAL_MISMATCH");
      expect((await asked("SER1")).disk?.status?.state).toBe("DISK_STATE_UP");
    });

    it("is not taken any more by a call that was meant for the drive that was there", async () => {
      await using node = await nodeWithDrives(spec(bound), [drive(2)]);
      const agent = await node.start(MANUAL);
      const { rows } = agent.node.agent;
      await until("it is listed", () => rows.controller(bound.address)?.state === "UNIDENTIFIED");
      await node.kernel.kernel.unplug(bound.address);
      await admit(agent, "", 1, bound.address);
      await until("it is MISSING, and nothing is asked of it any more", () => {
        const { state, inspectRequestedTime } = rows.controller(bound.address) ?? {};
        return state === "MISSING" && inspectRequestedTime === undefined;
      });
      expect(await admit(agent, "", 1, bound.address)).toMatchObject({
        details: expect.stringContaining("no NVMe controller"),
      });
      await node.kernel.kernel.plugIn({ ...drive(2), address: bound.address, iommuGroup: "1" });
      await settled(agent, { SER2: "DISK_STATE_DISCOVERED" });
      expect(await driverAt(node, bound.address)).toBe("nvme");
    });

    it("is left alone while another process has its group open", async () => {
      await using node = await nodeWithDrives(spec(bound));
      openGroup(node.kernel.root, "1", { pid: process.pid, command: "qemu-system-x86" });
      const agent = await node.start();
      await until("it says so", async () => {
        const [controller] = await controllersOf(agent);
        return controller?.stateReason.includes("qemu-system-x86") === true;
      });
      expect(await admit(agent, "", 1, bound.address)).toMatchObject({
        details: expect.stringContaining("VFIO_IN_USE"),
      });
      expect(await driverAt(node, bound.address)).toBe("vfio-pci");
    });

    it("is attached to look for a disk of this node that is missing, and kept if it has that", async () => {
      await using node = await nodeWithDrives(spec(drive(1), drive(2)));
      const agent = await node.start();
      await settled(agent, { SER1: "DISK_STATE_UP", SER2: "DISK_STATE_UP" });
      const made = await provision(agent);
      await agent[Symbol.asyncDispose]();
      await node.target.kill();
      await node.kernel.kernel.unplug("0000:01:00.0");
      await node.kernel.kernel.plugIn({
        ...drive(1),
        address: "0000:09:00.0",
        iommuGroup: "9",
        driver: "vfio-pci",
      });
      await node.target.restart();
      const second = await node.start();
      await settled(second, { SER1: "DISK_STATE_UP", SER2: "DISK_STATE_UP" });
      expect((await diskOf(second, "SER1"))?.address).toBe("0000:09:00.0");
      await until("the volume is UP again", async () => isUp(second, idOf(made)));
    });
  },
);

describe.skipIf(REAL_SOCKET !== undefined)("ListControllers", () => {
  it("has every NVMe function, whatever its driver, with the reason why it is of no use", async () => {
    await using node = await nodeWithDrives(
      spec(drive(1), { ...drive(2), rejected: true }, { ...drive(3), driverOverride: "none" }),
    );
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_UP" });
    const controllers = await controllersOf(agent);
    const says = (text: string) => ({ driver: "", stateReason: expect.stringContaining(text) });
    expect(controllers).toMatchObject([
      { address: "0000:01:00.0", driver: "vfio-pci", serial: "SER1", state: "ATTACHED" },
      { address: "0000:02:00.0", state: "REJECTED", ...says("dmesg") },
      { address: "0000:03:00.0", state: "UNIDENTIFIED", ...says("overridden to none") },
    ]);
    expect(controllers[0]?.diskIds).toHaveLength(1);
  });
});
