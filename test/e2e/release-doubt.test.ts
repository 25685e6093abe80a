// ReleaseDisk where not all is known or ours: it is refused where it cannot be told what lies on the disk, and
// is not held up by what others have made.
import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import { anotherHand } from "../support/another-hand.ts";
import { call, refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import { crashScenario, type CrashScenario } from "../support/crash-scenario.ts";
import { testDatabase } from "../support/database.ts";
import { REAL_SOCKET, startTarget } from "../support/target.ts";
import { GIB } from "../support/drives.ts";
import { idOf, provision, remove, WAIT } from "../support/volumes.ts";

const ATTACH = "bdev_nvme_attach_controller";
const DETACH = "bdev_nvme_detach_controller";

async function diskOf({ client }: TestAgent) {
  const { disks } = await call(client, client.listDisks.bind(client), {
    pageSize: 0,
    pageToken: "",
  });
  return disks[0];
}

async function release(agent: TestAgent, force = false) {
  const { client } = agent;
  const disk = await diskOf(agent);
  const asked = { diskId: disk?.meta?.id ?? "", serial: disk?.status?.serial ?? "" };
  const request = { ...asked, force, reason: force ? "it moves" : "", waitTimeout: WAIT };
  return (await call(client, client.releaseDisk.bind(client), request)).disk?.status?.state;
}

/** Stores that are loaded, and what led to it. */
function left({ target }: CrashScenario) {
  const { counts } = target.engine().gate;
  return {
    stores: target.state().stores.size,
    attaches: counts[ATTACH],
    detaches: counts[DETACH],
  };
}

describe.skipIf(REAL_SOCKET !== undefined)("ReleaseDisk", () => {
  it("without force is refused while it is not known what lies on the disk", async () => {
    await using database = await testDatabase();
    await using target = await startTarget();
    await using agent = await startAgent({ url: database.url, target });
    await agent.ready();
    const lvsUuid = (await diskOf(agent))?.status?.lvstore?.uuid ?? "";
    const shape = { sizeBytes: GIB / 16n, thin: true, clearMethod: "none" } as const;
    await target.spdk.bdevLvolCreate({ lvsUuid, lvolName: randomUUID(), ...shape });
    await target.kill();
    await until("it is seen to be away", async () => {
      return (await diskOf(agent))?.status?.state === "DISK_STATE_CLAIMING";
    });
    expect((await refusal(release(agent))).reason).toBe("TARGET_DOWN");
    await target.restart();
    await agent.ready();
    expect((await refusal(release(agent))).reason).toBe("IN_USE");
    expect((await diskOf(agent))?.status?.state).toBe("DISK_STATE_UP");
  });

  it("without force is refused for an lvol that nothing has shown the agent yet", async () => {
    await using scenario = await crashScenario({ eventsMs: 3_600_000 });
    const agent = await scenario.start();
    await agent.ready();
    await using other = await anotherHand(scenario);
    const lvsUuid = (await diskOf(agent))?.status?.lvstore?.uuid ?? "";
    const shape = { sizeBytes: GIB / 16n, thin: true, clearMethod: "none" } as const;
    const lvolName = randomUUID();
    await other.spdk.bdevLvolCreate({ lvsUuid, lvolName, ...shape });
    expect(await refusal(release(agent))).toMatchObject({
      reason: "IN_USE",
      message: expect.stringContaining("it holds 1 lvol without a volume"),
    });
    expect((await diskOf(agent))?.status?.state).toBe("DISK_STATE_UP");
  });

  it("with force does not wait for a subsystem that somebody else made under the NQN of a volume", async () => {
    await using database = await testDatabase();
    await using target = await startTarget();
    const { url } = database;
    let nqn = "";
    {
      await using agent = await startAgent({ url, target });
      await agent.ready();
      nqn = (await provision(agent, { sizeBytes: GIB / 16n })).status?.nqn ?? "";
    }
    const { spdk } = target;
    await spdk.nvmfDeleteSubsystem(nqn);
    const shape = { serialNumber: "SOMEBODY", modelNumber: "M", maxNamespaces: 2 };
    await spdk.nvmfCreateSubsystem({ nqn, allowAnyHost: false, ...shape });
    await using agent = await startAgent({ url, target });
    await agent.ready();
    expect(await release(agent, true)).toBe("DISK_STATE_RELEASED");
    const subsystems = await spdk.nvmfGetSubsystems();
    expect(subsystems.find((one) => one.nqn === nqn)?.serialNumber).toBe("SOMEBODY");
  });

  it("of a disk that is being attached is done once that has ended and was undone", async () => {
    await using scenario = await crashScenario();
    const agent = await scenario.start();
    await agent.ready();
    await provision(agent, { sizeBytes: GIB / 16n });
    const { target } = scenario;
    target.state().flush();
    await target.restart();
    const { gate } = target.engine();
    gate.addRule({ effect: "slow", method: ATTACH, nth: 1, ms: 1_500 });
    await until("the attach is sent", () => gate.counts[ATTACH] === 1);
    expect(await release(agent, true)).toBe("DISK_STATE_RELEASED");
    expect(left(scenario)).toEqual({ stores: 0, attaches: 1, detaches: 1 });
  });

  it("waits for the attach of an earlier agent likewise", async () => {
    await using scenario = await crashScenario({ graceMs: 3_000 });
    await (await scenario.start()).ready();
    await scenario.killAgent();
    const { target } = scenario;
    target.state().flush();
    await target.restart();
    const { gate } = target.engine();
    gate.addRule({ effect: "slow", method: ATTACH, nth: 1, ms: 2_000 });
    await scenario.start();
    await until("the attach is sent", () => gate.counts[ATTACH] === 1);
    await scenario.killAgent();
    const agent = await scenario.start();
    const { rows, ready } = agent.node.agent;
    await until("another agent leads and knows of the attach", () => {
      return ready() && [...rows.disks()].some(({ pendingOp }) => pendingOp?.op === "attach");
    });
    expect(await release(agent, true)).toBe("DISK_STATE_RELEASED");
    expect(left(scenario)).toEqual({ stores: 0, attaches: 1, detaches: 1 });
  });

  it("detaches no disk under the delete of an lvol that an earlier agent has sent", async () => {
    await using scenario = await crashScenario({ graceMs: 3_000 });
    const first = await scenario.start();
    await first.ready();
    const { target } = scenario;
    const { gate } = target.engine();
    const id = idOf(await provision(first, { sizeBytes: GIB / 16n }));
    gate.resetCounts();
    gate.addRule({ effect: "slow", method: "bdev_lvol_delete", nth: 1, ms: 2_000 });
    await remove(first, id, { wait: false });
    await until("it is sent", () => gate.counts["bdev_lvol_delete"] === 1);
    await scenario.killAgent();
    const second = await scenario.start();
    await second.ready();
    const released = await Promise.race([release(second, true), target.aborted]);
    expect(released).toBe("DISK_STATE_RELEASED");
    expect(gate.counts[DETACH]).toBe(1);
  });
});
