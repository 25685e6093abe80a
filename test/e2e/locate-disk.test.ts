// LocateDisk: the LED of a disk's slot, of whatever kind, also when the drive in it has died. Uses a simulated
// kernel: no machine of the tests has such slots.
import { describe, expect, it } from "vitest";
import { LocateState } from "../../src/gen/storagenode/v1/disk.ts";
import { call, refusal, until, type TestAgent } from "../support/agent.ts";
import {
  diskIdOf,
  diskOf,
  drive,
  nodeWithDrives,
  settled,
  type NodeWithDrives,
} from "../support/drives.ts";
import { REAL_SOCKET } from "../support/target.ts";

const MANUAL = { STORAGE_NODE_DISK_POLICY: "manual" };
const PORT = "/sys/devices/pci0000:00/0000:00:01.0/leds/0000:00:01.0:enclosure:locate/brightness";
const SLOT = "/sys/class/enclosure/0:0:0:0/Slot 01/locate";

async function locate({ client }: TestAgent, diskId: string, on: boolean) {
  return await call(client, client.locateDisk.bind(client), { diskId, on });
}

async function stateOf(agent: TestAgent, serial = "SER1"): Promise<LocateState | undefined> {
  return (await diskOf(agent, serial))?.locate;
}

const read = ({ kernel }: NodeWithDrives, path: string) => kernel.kernel.read(path);

describe.skipIf(REAL_SOCKET !== undefined)("LocateDisk", () => {
  it.each([
    [
      "function",
      "npem",
      "/sys/bus/pci/devices/0000:01:00.0/leds/0000:01:00.0:enclosure:locate/brightness",
    ],
    ["port", "npem", PORT],
    ["enclosure", "enclosure", SLOT],
  ] as const)("switches the LED of the %s, and says that it did", async (where, kind, path) => {
    await using node = await nodeWithDrives({ drives: [{ ...drive(1), locate: where }] });
    // Also of a disk that is in use.
    const agent = await node.start();
    await settled(agent, { SER1: "DISK_STATE_UP" });
    expect(await stateOf(agent)).toBe(LocateState.LOCATE_STATE_OFF);
    const id = await diskIdOf(agent, "SER1");
    for (const on of [true, true, false]) {
      const answer = await locate(agent, id, on);
      expect(answer).toMatchObject({ kind, address: "0000:01:00.0", on });
      const state = on ? LocateState.LOCATE_STATE_ON : LocateState.LOCATE_STATE_OFF;
      expect(answer.disk?.status?.locate).toBe(state);
      expect(await read(node, path)).toBe(on ? "1" : "0");
    }
    const { client } = agent;
    const page = { pageSize: 0, pageToken: "", objectId: id };
    const told = async () => {
      const { events } = await call(client, client.listEvents.bind(client), page);
      return events.filter(({ reason }) => reason === "LOCATE_SWITCHED");
    };
    // A repeat is none.
    await until("both changes are told", async () => (await told()).length === 2);
    expect((await told()).map(({ before, after }) => [before, after])).toEqual([
      ["ON", "OFF"],
      ["OFF", "ON"],
    ]);
  });

  it.each([
    ["port", PORT],
    ["enclosure", SLOT],
  ] as const)("finds the slot of a dead drive again by its %s", async (where, path) => {
    await using node = await nodeWithDrives({ drives: [{ ...drive(1), locate: where }] }, [
      drive(2),
    ]);
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_DISCOVERED" });
    const id = await diskIdOf(agent, "SER1");
    await node.kernel.kernel.unplug("0000:01:00.0");
    await settled(agent, { SER1: "DISK_STATE_MISSING" });
    expect(await locate(agent, id, true)).toMatchObject({ on: true, address: "0000:01:00.0" });
    expect(await read(node, path)).toBe("1");
    expect(await stateOf(agent)).toBe(LocateState.LOCATE_STATE_ON);
    // Another drive is in its slot: the LED would show that one.
    await node.kernel.kernel.plugIn({ ...drive(2), address: "0000:01:00.0", iommuGroup: "1" });
    await settled(agent, { SER2: "DISK_STATE_DISCOVERED" });
    const refused = await refusal(locate(agent, id, false));
    expect(refused).toMatchObject({ reason: "NO_LED" });
    expect(refused.message).toContain("where another drive is now");
    expect(await stateOf(agent)).toBe(LocateState.LOCATE_STATE_UNSPECIFIED);
  });

  it("shows what somebody else has switched, and refuses where there is no LED", async () => {
    await using node = await nodeWithDrives({
      drives: [{ ...drive(1), locate: "port" }, drive(2)],
    });
    const agent = await node.start(MANUAL);
    await settled(agent, { SER1: "DISK_STATE_DISCOVERED", SER2: "DISK_STATE_DISCOVERED" });
    await node.kernel.kernel.write(PORT, "1");
    await until("it shows", async () => (await stateOf(agent)) === LocateState.LOCATE_STATE_ON);
    const without = await refusal(locate(agent, await diskIdOf(agent, "SER2"), true));
    expect(without).toMatchObject({ reason: "NO_LED" });
    expect(without.message).toContain("shows no LED for the slot of 0000:02:00.0");
    expect(await stateOf(agent, "SER2")).toBe(LocateState.LOCATE_STATE_UNSPECIFIED);
  });
});
