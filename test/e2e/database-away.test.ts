// The database dies, and the target restarts while it is away: exports come back at once, whatever
// remains of the lease. An agent that starts meanwhile restores them from its local copy.
import { appendFile, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as after } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { copyLine, parseCopy } from "../../src/local/copy-format.ts";
import { call, refusal, until, type TestAgent } from "../support/agent.ts";
import { BusyHost } from "../support/busy-host.ts";
import {
  crashScenario,
  exactly,
  onTarget,
  settled,
  type CrashScenario,
} from "../support/crash-scenario.ts";
import { getLvol, GIB, HOST, idOf, provision, remove, stateOf } from "../support/volumes.ts";

const SMALL = { sizeBytes: GIB / 16n };
const OTHER_HOST = `${HOST.slice(0, -1)}2`;
/** With a lease that outlasts the test nothing can be waiting for its end. */
const LONG = { leaseTermMs: 3_600_000 };

describe("an agent whose database died before its target, and whose lease still holds", () => {
  it("restores the exports at once", async () => {
    await using scenario = await crashScenario(LONG);
    const agent = await scenario.start();
    await agent.ready();
    const ids = [idOf(await provision(agent, SMALL)), idOf(await provision(agent, SMALL))];
    await scenario.database().down();
    await scenario.target.restart();
    await until("the exports are back", () => onTarget(scenario).exported.length === 2);
    expect(onTarget(scenario)).toEqual(exactly(ids));
    expect(await refusal(provision(agent, SMALL))).toMatchObject({ reason: "DATABASE_DOWN" });
    await scenario.database().up();
    await agent.ready();
    await provision(agent, SMALL);
    await settled(scenario);
  });

  it("restores them also when it dies while the attach of a disk is being recorded", async () => {
    await using scenario = await crashScenario(LONG);
    const agent = await scenario.start();
    await agent.ready();
    const id = idOf(await provision(agent, SMALL));
    const recording = scenario.database().stopAt({ when: "before", nth: 1 });
    await scenario.target.restart();
    await recording;
    await scenario.database().down();
    await until("the export is back", () => onTarget(scenario).exported.length === 1);
    expect(onTarget(scenario)).toEqual(exactly([id]));
    await scenario.database().up();
    await settled(scenario);
  });

  it("restores them also when the database falls silent while the attach is being recorded", async () => {
    await using scenario = await crashScenario(LONG);
    const agent = await scenario.start();
    await agent.ready();
    const id = idOf(await provision(agent, SMALL));
    scenario.database().freeze();
    await scenario.target.restart();
    await until("the export is back", () => onTarget(scenario).exported.length === 1);
    expect(onTarget(scenario)).toEqual(exactly([id]));
    scenario.database().thaw();
    await settled(scenario);
  });
});

const copyOf = ({ stateDir }: CrashScenario) => join(stateDir, "copy.jsonl");

async function copyComponent({ client }: TestAgent) {
  const { components } = await call(client, client.getHealth.bind(client), {});
  return components.find(({ name }) => name === "copy");
}

const hostsOn = ({ target }: CrashScenario, id: string) =>
  [...target.state().subsystems.values()].find(({ nqn }) => nqn.endsWith(id))?.hosts;

/** Agent, target and database die; the target is back, and so is an agent. */
async function restartWithoutDatabase(scenario: CrashScenario): Promise<TestAgent> {
  await scenario.database().down();
  await scenario.killAgent();
  await scenario.target.restart();
  return await scenario.start({ databaseAway: true });
}

describe("an agent that starts while the database is away", () => {
  it("restores the exports from its local copy, reads from it, and changes nothing else", async () => {
    await using scenario = await crashScenario(LONG);
    const first = await scenario.start();
    await first.ready();
    const ids = [idOf(await provision(first, SMALL)), idOf(await provision(first, SMALL))];
    const agent = await restartWithoutDatabase(scenario);
    await until("the exports are back", () => onTarget(scenario).exported.length === 2);
    expect(onTarget(scenario)).toEqual(exactly(ids));
    await until("they are seen to be", async () => {
      return stateOf(await getLvol(agent, ids[0]!)) === "LVOL_STATE_UP";
    });
    const { client } = agent;
    const { export: found } = await call(client, client.getExport.bind(client), {
      target: { $case: "lvolId", value: ids[0]! },
      hostNqn: "",
    });
    expect(found).toMatchObject({ ready: true });
    expect(await refusal(provision(agent, SMALL))).toMatchObject({ reason: "DATABASE_DOWN" });
    expect(await refusal(remove(agent, ids[0]!))).toMatchObject({ reason: "DATABASE_DOWN" });
    expect(await copyComponent(agent)).toMatchObject({ ok: false });
    expect((await copyComponent(agent))?.reason).toMatch(/^rows are those of the local copy of 20/);
    expect(agent.node.agent.ready()).toBe(false);
    await scenario.database().up();
    await agent.ready();
    await until("the copy is written", async () => (await copyComponent(agent))?.ok === true);
    await provision(agent, SMALL);
    await settled(scenario);
  });

  it("lets in no host that was revoked, and brings back no volume that was deleted", async () => {
    await using scenario = await crashScenario(LONG);
    const first = await scenario.start();
    await first.ready();
    const allowedHostNqns = [HOST, OTHER_HOST];
    const kept = idOf(await provision(first, { ...SMALL, allowedHostNqns }));
    const deleted = idOf(await provision(first, SMALL));
    // From now on the target does nothing: both are committed and not carried out.
    const { gate } = scenario.target.engine();
    gate.stopAt({ when: "before", method: "nvmf_subsystem_remove_host", nth: 1 });
    const stopped = new Promise((resolve) => (gate.onStopped = resolve));
    const { client } = first;
    const revoke = { lvolId: kept, hostNqn: HOST, waitTimeout: undefined };
    await call(client, client.revokeHost.bind(client), revoke);
    await stopped;
    const target = { $case: "lvolId", value: deleted } as const;
    const deletion = { target, waitTimeout: undefined, deferred: false, force: false, reason: "" };
    await call(client, client.delete.bind(client), deletion);
    await restartWithoutDatabase(scenario);
    await until("the export is back", () => onTarget(scenario).exported.length === 1);
    expect(onTarget(scenario).exported).toEqual([kept]);
    expect(hostsOn(scenario, kept)).toEqual([OTHER_HOST]);
    expect(hostsOn(scenario, deleted)).toBeUndefined();
  });

  it("restores nothing while the copy says that the node is on hold", async () => {
    await using scenario = await crashScenario(LONG);
    const first = await scenario.start();
    await first.ready();
    await provision(first, SMALL);
    await scenario.database().down();
    await scenario.killAgent();
    const { header } = parseCopy(await readFile(copyOf(scenario), "utf8"))!;
    await appendFile(copyOf(scenario), copyLine({ header: { ...header, hold: "older" } }));
    expect(await changedAfterStart(scenario, /nothing is restored from it: older/)).toEqual([]);
  });

  it("restores nothing from a damaged copy, and says so", async () => {
    await using scenario = await crashScenario(LONG);
    const first = await scenario.start();
    await first.ready();
    await provision(first, SMALL);
    await scenario.database().down();
    await scenario.killAgent();
    const text = await readFile(copyOf(scenario), "utf8");
    await writeFile(copyOf(scenario), text.replace('"hosts"', '"guests"'));
    expect(await changedAfterStart(scenario, /line \d+ cannot be read/)).toEqual([]);
  });
});

/** What an agent sends to the target that is no read, once its loops ran and health has said why. */
async function changedAfterStart(scenario: CrashScenario, why: RegExp) {
  await scenario.target.restart();
  const agent = await scenario.start({ databaseAway: true });
  await until("health says why", async () => why.test((await copyComponent(agent))?.reason ?? ""));
  await until("the target is seen", async () => {
    return Object.keys(scenario.target.engine().gate.counts).length > 0;
  });
  const { passes } = agent.node.agent.loops()[0]!;
  await until("the loops ran", () => (agent.node.agent.loops()[0]?.passes ?? 0) > passes);
  const { counts } = scenario.target.engine().gate;
  return Object.keys(counts).filter((method) => !/get_|version|notify/.test(method));
}

/** Distances between the death of the database and that of the target, over a whole lease. */
const TERM_MS = 1_600;
const DISTANCES = Array.from({ length: 16 }, (_, index) => (index * TERM_MS) / 16);

describe.each([
  ["and the agent lives", false],
  ["and the agent is started again", true],
])("the database dies, the target dies later, %s", (_what, restarted) => {
  it("all exports are back with the database still away, whatever the distance", async () => {
    await using scenario = await crashScenario({ leaseTermMs: TERM_MS });
    let agent = await scenario.start();
    await agent.ready();
    const allowedHostNqns = [HOST, OTHER_HOST];
    const used = await provision(agent, SMALL);
    const ids = [idOf(used), idOf(await provision(agent, { ...SMALL, allowedHostNqns }))];
    const { fabric } = scenario.target;
    const nqn = used.status?.nqn ?? "";
    await using host = await BusyHost.connect({ fabric, host: HOST, nqn });
    for (const distanceMs of DISTANCES) {
      await scenario.database().down();
      await after(distanceMs);
      if (restarted) await scenario.killAgent();
      await scenario.target.restart();
      if (restarted) agent = await scenario.start({ databaseAway: true });
      await until(`the exports are back after ${distanceMs} ms`, () => {
        return onTarget(scenario).exported.length === 2;
      });
      expect(onTarget(scenario)).toEqual(exactly(ids));
      expect(hostsOn(scenario, ids[1]!)?.toSorted()).toEqual(allowedHostNqns);
      await host.writesAgain();
      await scenario.database().up();
      await agent.ready();
      await settled(scenario);
    }
    expect(await host.stop()).toEqual([]);
  }, 120_000);
});
