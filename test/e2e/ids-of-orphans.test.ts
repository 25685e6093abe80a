// An id that an orphan has as its name is not given to anything new: not where the orphan lies on another disk,
// is not loaded now, or was not shown to the agent before.
import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import { anotherHand } from "../support/another-hand.ts";
import { BY_HAND, call, refusal, until, type TestAgent } from "../support/agent.ts";
import { crashScenario, readBack, tag, type CrashScenario } from "../support/crash-scenario.ts";
import { NO_ATTACH } from "../support/no-attach.ts";
import { getSnapshot } from "../support/snapshots.ts";
import { getLvol, GIB, idOf, provision, stateOf, WAIT } from "../support/volumes.ts";

const SMALL = { sizeBytes: GIB / 16n };
const SHAPE = { ...SMALL, thin: true, clearMethod: "write_zeroes" } as const;
const NEVER_MS = 3_600_000;
const FOREIGN = 0x5a;

async function twoDisks(eventsMs: number) {
  const options = { env: BY_HAND, target: { disks: 2 } };
  const scenario = await crashScenario({ eventsMs }, options);
  const agent = await scenario.start();
  await agent.ready();
  const disks = () =>
    [...agent.node.agent.rows.disks()].toSorted((a, b) => (a.serial < b.serial ? -1 : 1));
  await until("the making of both stores was recorded", () => {
    return disks().length === 2 && disks().every(({ pendingOp }) => pendingOp === undefined);
  });
  const [first, second] = disks();
  if (first === undefined || second === undefined) throw new Error("not two disks");
  const [orphansDisk, otherDisk] = [first, second];
  return {
    scenario,
    agent,
    orphansDisk,
    otherDisk,
    [Symbol.asyncDispose]: () => scenario[Symbol.asyncDispose](),
  };
}

/** An lvol of that name on the disk. */
async function orphan(
  scenario: CrashScenario,
  lvsUuid: string | undefined,
  lvolName: string,
): Promise<string> {
  await using other = await anotherHand(scenario);
  return await other.spdk.bdevLvolCreate({ lvsUuid: lvsUuid ?? "", lvolName, ...SHAPE });
}

async function snapshot({ client }: TestAgent, id: string, sourceLvolId: string) {
  const request = { id, spec: { sourceLvolId, labels: {} }, waitTimeout: WAIT };
  return await call(client, client.snapshot.bind(client), request);
}

describe("the id of an orphan", () => {
  it("is refused while the store of the orphan is not loaded, and other disks are", async () => {
    await using node = await twoDisks(20);
    const { scenario, agent, orphansDisk, otherDisk } = node;
    const id = randomUUID();
    await orphan(scenario, orphansDisk.lvsUuid, id);
    const { known } = agent.node.agent.orphans;
    await until("the agent knows the orphan", () => known().length === 1);
    scenario.target.state().flush();
    await scenario.target.restart();
    scenario.target.engine().gate.addRule({ ...NO_ATTACH, with: "nqn.2026-11.io.test:disk0" });
    await until("the other disk is UP again", async () => {
      const made = await provision(agent, { ...SMALL, diskId: otherDisk.id }).catch(
        () => undefined,
      );
      return made !== undefined && stateOf(made) === "LVOL_STATE_UP";
    });
    expect(await refusal(provision(agent, SMALL, { id }))).toMatchObject({
      reason: "STORE_LOADING",
    });
    expect(await refusal(snapshot(agent, id, randomUUID()))).toMatchObject({
      reason: "STORE_LOADING",
    });
    scenario.target.engine().gate.clear();
    await until("the orphan is there again", async () => {
      return (await refusal(provision(agent, SMALL, { id }))).reason === "ORPHAN_EXISTS";
    });
    expect(known()).toHaveLength(1);
  });

  it("is given to no volume that was accepted while the target was away", async () => {
    await using node = await twoDisks(NEVER_MS);
    const { scenario, agent, orphansDisk, otherDisk } = node;
    const id = randomUUID();
    const uuid = await orphan(scenario, orphansDisk.lvsUuid, id);
    scenario.target.state().flush();
    scenario.target.engine().gate.stopAt({ when: "before", nth: 1 });
    scenario.loseConnection();
    await until("the agent has lost the target", () => !agent.node.agent.ready());
    await provision(agent, { ...SMALL, diskId: otherDisk.id }, { id, wait: false });
    await scenario.target.restart();
    const { gate } = scenario.target.engine();
    gate.addRule({ ...NO_ATTACH, with: "nqn.2026-11.io.test:disk1" });
    const { known } = agent.node.agent.orphans;
    await until("the agent knows the orphan", () => known().some((one) => one.uuid === uuid));
    gate.clear();
    await until("the volume is FAILED", async () => {
      return stateOf(await getLvol(agent, id)) === "LVOL_STATE_FAILED";
    });
    const { status } = await getLvol(agent, id);
    expect(status?.lastError).toMatch(/^ORPHAN_EXISTS: .*on another disk/);
    expect(status?.lvolUuid).toBe("");
  });

  it("that a snapshot has, which the agent was not shown, is no snapshot of anything else", async () => {
    await using scenario = await crashScenario({ eventsMs: NEVER_MS }, { env: BY_HAND });
    const agent = await scenario.start();
    await agent.ready();
    const source = await provision(agent, SMALL);
    const id = randomUUID();
    await using other = await anotherHand(scenario);
    const lvsUuid = [...agent.node.agent.rows.disks()][0]?.lvsUuid ?? "";
    const name = await other.spdk.bdevLvolCreate({ lvsUuid, lvolName: randomUUID(), ...SHAPE });
    tag(scenario, name, FOREIGN);
    const foreign = await other.spdk.bdevLvolSnapshot({ lvsUuid, name, snapshotName: id });
    await snapshot(agent, id, idOf(source));
    await until("the snapshot is FAILED", async () => {
      return (await getSnapshot(agent, id)).status?.state === "SNAPSHOT_STATE_FAILED";
    });
    const { status } = await getSnapshot(agent, id);
    expect(status?.lastError).toMatch(/^ORPHAN_EXISTS: /);
    expect(status?.lvolUuid).toBe("");
    expect(readBack(scenario, foreign)?.written).toEqual([FOREIGN]);
  });
});
