// Interrupted changes: sent and not answered, failed after half of the effect, or lost with the
// target. When the outcome is unknown the agent assumes the worse one until it observes the result
// or an operator zeroes the free space.
import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import type { TestAgent } from "../support/agent.ts";
import { BY_HAND, call, refusal, until } from "../support/agent.ts";
import { TOMBSTONE_MS } from "../../src/limits.ts";
import type { StopAt } from "../../src/sim/target/gate.ts";
import {
  crashScenario,
  exactly,
  onTarget,
  readBack,
  settled,
  tag,
  type CrashScenario,
} from "../support/crash-scenario.ts";
import { deleteSnapshot, snapshotIdOf, takeSnapshot } from "../support/snapshots.ts";
import { getLvol, GIB, idOf, provision, remove, resize, stateOf } from "../support/volumes.ts";

const SMALL = { sizeBytes: GIB / 16n };

async function theDisk({ client }: TestAgent) {
  const { disks } = await call(client, client.listDisks.bind(client), {
    pageSize: 0,
    pageToken: "",
  });
  return { id: disks[0]?.meta?.id ?? "", freeSpace: disks[0]?.status?.lvstore?.freeSpace };
}

async function zeroFreeSpace({ client }: TestAgent, diskId: string) {
  const zero = client.zeroFreeSpace.bind(client);
  return await call(client, zero, { diskId, waitTimeout: { seconds: 30n, nanos: 0 } });
}

/** Makes the agent compact the rows of deleted volumes, as if they had been deleted days ago. */
async function compact(scenario: CrashScenario, ids: readonly string[]): Promise<void> {
  const agent = scenario.agent();
  await scenario.query(`update lvol set revision = revision + 1,
    delete_time = delete_time - ${2 * TOMBSTONE_MS} * interval '1 millisecond'
    where id in ('${ids.join("', '")}')`);
  await scenario.query("update node set revision = revision + 1");
  // It notices with its next transaction that rows were changed.
  await remove(agent, randomUUID());
  const { rows } = agent.node.agent;
  await until("the rows are compacted", () => ids.every((id) => rows.lvol(id) === undefined));
}

/** Kills the target at the next request of that method, and restarts it. */
async function targetKilledAt(
  scenario: CrashScenario,
  method: string,
  doing: () => Promise<unknown>,
  when: StopAt["when"] = "before",
): Promise<unknown> {
  const { gate } = scenario.target.engine();
  const stopped = new Promise((resolve) => (gate.onStopped = resolve));
  gate.stopAt({ when, method, nth: 1 });
  const done = doing();
  await stopped;
  await scenario.target.restart();
  return await done;
}

describe("a delete that an agent sent before it was killed", () => {
  it("is not sent again while it may still be running, and completes", async () => {
    await using scenario = await crashScenario({ graceMs: 1_500 });
    const first = await scenario.start();
    await first.ready();
    const id = idOf(await provision(first, SMALL));
    const { gate } = scenario.target.engine();
    gate.addRule({ effect: "slow", method: "bdev_lvol_delete", nth: 1, polls: 400 });
    const asked = remove(first, id).catch(() => {});
    await until("the target has read the delete", () => gate.counts["bdev_lvol_delete"] === 1);
    await scenario.killAgent();
    await asked;
    const second = await scenario.start();
    await second.ready();
    const gone = remove(second, id);
    expect(await Promise.race([gone, scenario.target.aborted])).toEqual({ done: true });
    expect(gate.counts["bdev_lvol_delete"]).toBe(1);
    expect(onTarget(scenario)).toEqual(exactly([]));
  });

  it("does not block other volumes of the node", async () => {
    await using scenario = await crashScenario({ graceMs: 3_600_000 });
    const first = await scenario.start();
    await first.ready();
    const id = idOf(await provision(first, SMALL));
    const { gate } = scenario.target.engine();
    gate.addRule({ effect: "slow", method: "bdev_lvol_delete", nth: 1, polls: 1_000_000 });
    const asked = remove(first, id).catch(() => {});
    await until("the target has read the delete", () => gate.counts["bdev_lvol_delete"] === 1);
    await scenario.killAgent();
    await asked;
    const second = await scenario.start();
    await second.ready();
    expect(stateOf(await provision(second, SMALL))).toBe("LVOL_STATE_UP");
    expect(stateOf(await getLvol(second, id))).toBe("LVOL_STATE_DELETING");
  });
});

describe("a resize that an agent sent before it was killed", () => {
  it("cuts off nothing of what the next agent grows the volume to", async () => {
    await using scenario = await crashScenario({ graceMs: 1_500 });
    const first = await scenario.start();
    await first.ready();
    const id = idOf(await provision(first, SMALL));
    const { gate } = scenario.target.engine();
    gate.addRule({ effect: "slow", method: "bdev_lvol_resize", nth: 1, polls: 400 });
    await resize(first, id, GIB, { wait: false });
    await until("the target has read the resize", () => gate.counts["bdev_lvol_resize"] === 1);
    await scenario.killAgent();
    const second = await scenario.start();
    await second.ready();
    const grown = resize(second, id, 2n * GIB);
    const { status, meta } = await Promise.race([grown, scenario.target.aborted]);
    expect(status?.sizeBytes).toBe(2n * GIB);
    expect(status?.observedGeneration).toBe(meta?.generation);
    const lvol = scenario.target.state().lvol(status?.lvolUuid ?? "");
    expect(lvol?.blob.clusters).toBe(512);
    expect(second.node.agent.rows.lvol(id)?.pendingOp).toBeUndefined();
  });

  it("is over before the volume is deleted", async () => {
    await using scenario = await crashScenario({ graceMs: 1_500 });
    const first = await scenario.start();
    await first.ready();
    const id = idOf(await provision(first, SMALL));
    const { gate } = scenario.target.engine();
    gate.addRule({ effect: "slow", method: "bdev_lvol_resize", nth: 1, polls: 400 });
    await resize(first, id, GIB, { wait: false });
    await until("the target has read the resize", () => gate.counts["bdev_lvol_resize"] === 1);
    await scenario.killAgent();
    const second = await scenario.start();
    await second.ready();
    const gone = remove(second, id);
    expect(await Promise.race([gone, scenario.target.aborted])).toEqual({ done: true });
    expect(onTarget(scenario)).toEqual(exactly([]));
  });

  it("is carried out when an lvol that was made before it was asked for has no uuid in its row", async () => {
    await using scenario = await crashScenario({}, { env: BY_HAND });
    const first = await scenario.start();
    await first.ready();
    const { gate } = scenario.target.engine();
    const stopped = new Promise((resolve) => (gate.onStopped = resolve));
    gate.stopAt({ when: "after", method: "bdev_lvol_create", nth: 1 });
    const made = provision(first, SMALL, { wait: false });
    const id = idOf(await made);
    await stopped;
    await resize(first, id, GIB, { wait: false });
    const killed = scenario.killAgent();
    scenario.target.resume();
    await killed;
    const second = await scenario.start();
    await second.ready();
    await until("it is UP", async () => stateOf(await getLvol(second, id)) === "LVOL_STATE_UP");
    expect((await getLvol(second, id)).status?.sizeBytes).toBe(GIB);
  });
});

describe("a delete during which the target is killed", () => {
  it("makes the free space UNKNOWN: new volumes are refused until ZeroFreeSpace", async () => {
    await using scenario = await crashScenario({}, { env: BY_HAND });
    const agent = await scenario.start();
    await agent.ready();
    const kept = idOf(await provision(agent, SMALL));
    const doomed = idOf(await provision(agent, SMALL));
    expect(await theDisk(agent)).toMatchObject({ freeSpace: "FREE_SPACE_ZEROED" });
    await targetKilledAt(scenario, "bdev_lvol_delete", () => remove(agent, doomed));
    expect(await theDisk(agent)).toMatchObject({ freeSpace: "FREE_SPACE_UNKNOWN" });
    expect(await refusal(provision(agent, SMALL))).toMatchObject({
      code: 9,
      reason: "FREE_SPACE_NOT_ZEROED",
    });
    const { id: diskId } = await theDisk(agent);
    const { disk } = await zeroFreeSpace(agent, diskId);
    expect(disk?.status?.lvstore?.freeSpace).toBe("FREE_SPACE_ZEROED");
    const next = idOf(await provision(agent, SMALL));
    expect(onTarget(scenario)).toEqual(exactly([kept, next]));
  });

  it.each([
    ["strict", []],
    ["trusted", [7]],
  ])(
    "halfway, with isolation %s: the next volume shows its bytes as %j",
    async (isolation, shown) => {
      await using scenario = await crashScenario(
        {},
        { env: { ...BY_HAND, STORAGE_NODE_ISOLATION: isolation } },
      );
      const agent = await scenario.start();
      await agent.ready();
      const doomed = await provision(agent, SMALL);
      tag(scenario, doomed.status?.lvolUuid ?? "", 7, 64 * 1024);
      const doing = () => remove(agent, idOf(doomed));
      await targetKilledAt(scenario, "bdev_lvol_delete", doing, "midway");
      if (isolation === "strict") {
        expect((await refusal(provision(agent, SMALL))).reason).toBe("FREE_SPACE_NOT_ZEROED");
        await zeroFreeSpace(agent, (await theDisk(agent)).id);
      }
      const next = (await provision(agent, SMALL)).status?.lvolUuid ?? "";
      tag(scenario, next, 1);
      // The host wrote one page; the rest of that cluster shows its previous contents.
      expect(readBack(scenario, next)?.rest.filter((byte) => byte !== 0)).toEqual(shown);
    },
  );

  it("with isolation trusted does not prevent new volumes", async () => {
    await using scenario = await crashScenario({}, { env: { STORAGE_NODE_ISOLATION: "trusted" } });
    const agent = await scenario.start();
    await agent.ready();
    const doomed = idOf(await provision(agent, SMALL));
    await targetKilledAt(scenario, "bdev_lvol_delete", () => remove(agent, doomed));
    expect(await theDisk(agent)).toMatchObject({ freeSpace: "FREE_SPACE_UNKNOWN" });
    expect(stateOf(await provision(agent, SMALL))).toBe("LVOL_STATE_UP");
  });

  it("differs from a create: a kill during it keeps the free space ZEROED", async () => {
    await using scenario = await crashScenario({}, { env: BY_HAND });
    const agent = await scenario.start();
    await agent.ready();
    await targetKilledAt(scenario, "bdev_lvol_create", () => provision(agent, SMALL));
    expect(await theDisk(agent)).toMatchObject({ freeSpace: "FREE_SPACE_ZEROED" });
  });
});

describe("a deleted volume whose lvol reappears when its store is loaded", () => {
  it.each([
    ["its row", false, false],
    ["a compacted row", true, false],
    ["a compacted row, before another agent starts", true, true],
  ])(
    "with %s is deleted again; one of its name with another uuid is not",
    async (_, old, again) => {
      await using scenario = await crashScenario({}, { env: BY_HAND });
      const agent = await scenario.start();
      await agent.ready();
      const [one, two] = await Promise.all([provision(agent, SMALL), provision(agent, SMALL)]);
      const stores = () => [...scenario.target.state().stores.values()];
      const blobs = stores().flatMap(({ lvols }) => [...lvols.values()].map(({ blob }) => blob));
      await remove(agent, idOf(one));
      await remove(agent, idOf(two));
      expect(onTarget(scenario).lvols).toEqual([]);
      if (old) await compact(scenario, [idOf(one), idOf(two)]);
      if (again) await scenario.killAgent();
      // State after a delete that failed halfway: unlisted, and loaded again with the store.
      const [disk] = stores().map(({ base }) => base.disk);
      const stranger = "0b0e7f3a-7c7e-4d1a-9a64-6a5b1c2d3e4f";
      for (const blob of blobs) {
        const { name } = blob;
        disk?.keep(name === idOf(one) ? blob : { ...blob, uuid: stranger });
      }
      disk?.flush();
      await scenario.target.restart();
      if (again) await scenario.start();
      await until("the reappeared lvol is deleted", () => {
        const { lvols } = onTarget(scenario);
        return lvols.length === 1 && lvols[0] === idOf(two);
      });
      await settled(scenario);
      expect(onTarget(scenario).lvols).toEqual([idOf(two)]);
      const { node } = scenario.agent();
      await until("the delete is recorded", () => {
        const row = node.agent.rows.lvol(idOf(one));
        return row?.deleteTime !== undefined && row.pendingOp === undefined;
      });
    },
  );
});

describe("a delete of a clone that an agent sent before it was killed", () => {
  it("keeps the snapshot as it is while it may be running: both at once would kill the target", async () => {
    await using scenario = await crashScenario({ graceMs: 1_500 });
    const first = await scenario.start();
    await first.ready();
    const source = idOf(await provision(first, SMALL));
    const snapshot = snapshotIdOf(await takeSnapshot(first, source));
    const clone = idOf(await provision(first, { ...SMALL, sourceSnapshotId: snapshot }));
    await remove(first, source);
    const { gate } = scenario.target.engine();
    const before = gate.counts["bdev_lvol_delete"] ?? 0;
    gate.addRule({ effect: "slow", method: "bdev_lvol_delete", nth: 1, polls: 400 });
    const asked = remove(first, clone).catch(() => {});
    await until("the target has read the delete", () => {
      return gate.counts["bdev_lvol_delete"] === before + 1;
    });
    await scenario.killAgent();
    await asked;
    const second = await scenario.start();
    await second.ready();
    const gone = Promise.all([deleteSnapshot(second, snapshot), remove(second, clone)]);
    const answers = await Promise.race([gone, scenario.target.aborted]);
    expect(answers).toEqual([{ done: true }, { done: true }]);
    expect(onTarget(scenario)).toEqual(exactly([]));
  });
});
