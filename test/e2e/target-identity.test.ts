// Which process of the target answers: the same one behind a lost connection, or another one, whatever its
// saved configuration brought back.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { continuityOf } from "../../src/model/target-process.ts";
import { readProcessFacts } from "../../src/reconcile/target/process-facts.ts";
import type { Gate, StopAt } from "../../src/sim/target/gate.ts";
import { saveConfig } from "../../src/sim/target/config-file.ts";
import { spdkClient } from "../../src/spdk/client.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import { BY_HAND, call, refusal, until, type TestAgent } from "../support/agent.ts";
import {
  crashScenario,
  exactly,
  onTarget,
  readBack,
  settled,
  tag,
  type CrashScenario,
} from "../support/crash-scenario.ts";
import { inProcessTarget } from "../support/in-process-target.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { GIB, HOST, idOf, provision, remove } from "../support/volumes.ts";

const SMALL = { sizeBytes: GIB / 16n };
const REFUSED = { code: -32601, message: "Method not found", half: false };

const marks = ({ target }: CrashScenario) =>
  [...target.state().subsystems.keys()].filter((nqn) => nqn.includes(":owner:"));

async function freeSpace({ client }: TestAgent) {
  const page = { pageSize: 0, pageToken: "" };
  const { disks } = await call(client, client.listDisks.bind(client), page);
  return disks[0]?.status?.lvstore?.freeSpace;
}

/** The target cannot say which process it is. */
function withoutFacts(gate: Gate): void {
  for (const method of ["framework_get_reactors", "trace_get_info"])
    gate.addRule({ effect: "fail", method, nth: 1, always: true, failure: REFUSED });
}

async function stopAt({ target }: CrashScenario, at: StopAt, doing: () => Promise<unknown>) {
  const { gate } = target.engine();
  const stopped = new Promise((resolve) => (gate.onStopped = resolve));
  gate.stopAt(at);
  const done = doing();
  done.catch(() => {});
  await stopped;
  return { done };
}

/** A delete that the target reads, and carries out so many polls later. */
async function slowDelete(scenario: CrashScenario, id: string, polls: number) {
  const { gate } = scenario.target.engine();
  gate.addRule({ effect: "slow", method: "bdev_lvol_delete", nth: 1, polls });
  const asked = remove(scenario.agent(), id);
  asked.catch(() => {});
  await until("the target has read the delete", () => gate.counts["bdev_lvol_delete"] === 1);
  return { asked };
}

/** How often the delete was sent by the time that the first one had its effect. */
async function deletesUntilGone(scenario: CrashScenario, id: string) {
  await until("the lvol is gone", () => !onTarget(scenario).lvols.includes(id));
  return scenario.target.engine().gate.counts["bdev_lvol_delete"];
}

async function saved(scenario: CrashScenario, folder: string, without = "nothing at all") {
  const path = join(folder, "config.json");
  saveConfig(scenario.target.state(), path);
  const text = readFileSync(path, "utf8");
  const config: unknown = JSON.parse(text, (_key, value: unknown) =>
    Array.isArray(value)
      ? value.filter((one) => !JSON.stringify(one).startsWith(`{"method":"${without}"`))
      : value,
  );
  writeFileSync(path, JSON.stringify(config));
  return path;
}

describe("a connection that is lost and made again", () => {
  it("to the same process keeps its mark, and a delete waits for the grace and is clean", async () => {
    await using scenario = await crashScenario({ graceMs: 1_500 }, { env: BY_HAND });
    const agent = await scenario.start();
    await agent.ready();
    const id = idOf(await provision(agent, SMALL));
    const before = marks(scenario);
    const { asked } = await slowDelete(scenario, id, 400);
    scenario.loseConnection();
    expect(await deletesUntilGone(scenario, id)).toBe(1);
    expect(await asked).toEqual({ done: true });
    expect(await freeSpace(agent)).toBe("FREE_SPACE_ZEROED");
    expect(marks(scenario)).toEqual(before);
    expect(scenario.target.aborts()).toBe(0);
  });

  it("to one that says nothing of itself: what was sent is waited for, and space is UNKNOWN", async () => {
    await using scenario = await crashScenario({ graceMs: 1_500 }, { env: BY_HAND });
    const agent = await scenario.start();
    await agent.ready();
    const kept = idOf(await provision(agent, SMALL));
    const id = idOf(await provision(agent, SMALL));
    const before = marks(scenario);
    withoutFacts(scenario.target.engine().gate);
    const { asked } = await slowDelete(scenario, id, 400);
    scenario.loseConnection();
    await until("the free space is UNKNOWN", async () => {
      return (await freeSpace(agent)) === "FREE_SPACE_UNKNOWN";
    });
    expect(await deletesUntilGone(scenario, id)).toBe(1);
    expect(await asked).toEqual({ done: true });
    expect(scenario.target.aborts()).toBe(0);
    expect(marks(scenario)).toHaveLength(1);
    expect(marks(scenario)).not.toEqual(before);
    expect(onTarget(scenario)).toEqual(exactly([kept]));
  });
});

describe("a target that starts with a saved configuration, after a delete was cut off", () => {
  it.each([
    ["with the agent that sent it", false],
    ["with the next agent", true],
  ])("%s: the free space is UNKNOWN and nobody sees an old byte", async (_which, agentDies) => {
    await using folder = await temporaryFolder();
    await using scenario = await crashScenario({}, { env: BY_HAND });
    let agent = await scenario.start();
    await agent.ready();
    const kept = idOf(await provision(agent, SMALL));
    const doomed = await provision(agent, SMALL);
    tag(scenario, doomed.status?.lvolUuid ?? "", 7, 64 * 1024);
    const before = marks(scenario);
    const at = { when: "midway", method: "bdev_lvol_delete", nth: 1 } as const;
    const { done } = await stopAt(scenario, at, () => remove(agent, idOf(doomed)));
    const configPath = await saved(scenario, folder.path);
    if (agentDies) await scenario.killAgent();
    await scenario.target.restart({ configPath });
    expect(marks(scenario)).toEqual(before);
    await done.catch(() => {});
    if (agentDies) agent = await scenario.start();
    await agent.ready();
    await until("the free space is UNKNOWN", async () => {
      return (await freeSpace(agent)) === "FREE_SPACE_UNKNOWN";
    });
    expect((await refusal(provision(agent, SMALL))).reason).toBe("FREE_SPACE_NOT_ZEROED");
    const { client } = agent;
    const { disks } = await call(client, client.listDisks.bind(client), {
      pageSize: 0,
      pageToken: "",
    });
    const waitTimeout = { seconds: 30n, nanos: 0 };
    const diskId = disks[0]?.meta?.id ?? "";
    await call(client, client.zeroFreeSpace.bind(client), { diskId, waitTimeout });
    const next = await provision(agent, SMALL);
    tag(scenario, next.status?.lvolUuid ?? "", 1);
    expect(readBack(scenario, next.status?.lvolUuid ?? "")?.rest).toEqual([0]);
    await settled(scenario);
    expect(onTarget(scenario)).toEqual(exactly([kept, idOf(next)]));
    expect(marks(scenario)).toHaveLength(1);
    expect(marks(scenario)).not.toEqual(before);
  });
});

describe("an agent that is started again", () => {
  it("knows from its row that the target did not restart", async () => {
    await using scenario = await crashScenario({ graceMs: 1_500 }, { env: BY_HAND });
    const first = await scenario.start();
    await first.ready();
    const id = idOf(await provision(first, SMALL));
    const before = marks(scenario);
    await slowDelete(scenario, id, 300);
    await scenario.killAgent();
    const second = await scenario.start();
    await second.ready();
    expect(await remove(second, id)).toEqual({ done: true });
    expect(scenario.target.engine().gate.counts["bdev_lvol_delete"]).toBe(1);
    expect(await freeSpace(second)).toBe("FREE_SPACE_ZEROED");
    expect(marks(scenario)).toEqual(before);
  });
});

describe("an agent that is started again and cannot tell which process answers", () => {
  it("waits for what the last one sent, and takes the free space for UNKNOWN", async () => {
    await using scenario = await crashScenario({ graceMs: 1_500 }, { env: BY_HAND });
    const first = await scenario.start();
    await first.ready();
    const id = idOf(await provision(first, SMALL));
    const { gate } = scenario.target.engine();
    withoutFacts(gate);
    await slowDelete(scenario, id, 600);
    await scenario.killAgent();
    const second = await scenario.start();
    await second.ready();
    expect(await deletesUntilGone(scenario, id)).toBe(1);
    expect(await remove(second, id)).toEqual({ done: true });
    expect(await freeSpace(second)).toBe("FREE_SPACE_UNKNOWN");
    expect(scenario.target.aborts()).toBe(0);
  });
});

describe("exports that a saved configuration brought back", () => {
  it("let in no host that was revoked, end with their volumes, and get the namespace they lack", async () => {
    await using folder = await temporaryFolder();
    await using scenario = await crashScenario({}, { env: BY_HAND });
    const agent = await scenario.start();
    await agent.ready();
    const kept = await provision(agent, SMALL);
    const deleted = await provision(agent, SMALL);
    // As with an lvol that was not there when the configuration was loaded.
    const configPath = await saved(scenario, folder.path, "nvmf_subsystem_add_ns");
    await remove(agent, idOf(deleted));
    await scenario.target.kill();
    const { client } = agent;
    await call(client, client.revokeHost.bind(client), {
      lvolId: idOf(kept),
      hostNqn: HOST,
      waitTimeout: undefined,
    });
    await scenario.target.restart({ configPath });
    expect(onTarget(scenario).empty).toHaveLength(2);
    await until("only the kept volume is exported", () => {
      const { exported, empty } = onTarget(scenario);
      return exported.join() === idOf(kept) && empty.length === 0;
    });
    const subsystem = () => scenario.target.state().subsystems.get(kept.status?.nqn ?? "");
    await until("it can be reached", () => subsystem()?.listeners.length === 1);
    expect(subsystem()?.hosts).toEqual([]);
    expect(onTarget(scenario)).toEqual(exactly([idOf(kept)]));
    expect(marks(scenario)).toHaveLength(1);
    expect(scenario.target.aborts()).toBe(0);
  });

  it("do not keep the lvol of a deleted volume that came back: its export goes first", async () => {
    await using folder = await temporaryFolder();
    await using scenario = await crashScenario({}, { env: BY_HAND });
    const agent = await scenario.start();
    await agent.ready();
    const deleted = await provision(agent, SMALL);
    const configPath = await saved(scenario, folder.path);
    const failure = { code: -32603, message: "Device or resource busy", half: true };
    const { gate } = scenario.target.engine();
    gate.addRule({ effect: "fail", method: "bdev_lvol_delete", nth: 1, failure });
    await remove(agent, idOf(deleted));
    await scenario.target.restart({ configPath });
    const restored = scenario.target.engine().gate;
    const refused = { code: -32602, message: "Invalid parameters", half: false };
    const method = "nvmf_subsystem_remove_ns";
    restored.addRule({ effect: "fail", method, nth: 1, always: true, failure: refused });
    expect(onTarget(scenario).exported).toEqual([idOf(deleted)]);
    await until("its end was tried three times", () => (restored.counts[method] ?? 0) >= 3);
    expect(restored.counts["bdev_lvol_delete"]).toBeUndefined();
    restored.clear();
    await until("neither export nor lvol is left", () => {
      const { lvols, exported, empty } = onTarget(scenario);
      return [...lvols, ...exported, ...empty].length === 0;
    });
    expect(scenario.target.aborts()).toBe(0);
  });
});

describe("a process of an older release", () => {
  it.each(["24.01", "25.05"] as const)("%s is told from the next one, too", async (release) => {
    await using target = await inProcessTarget({ release });
    await using connection = new SpdkConnection({ path: target.socket, mayMutate: () => false });
    const spdk = spdkClient(connection);
    await until("it is connected", () => connection.connected);
    const read = async () => await readProcessFacts(spdk, target.socket, undefined);
    const known = { mark: "m", ...(await read()) };
    expect(known.pid).toBe(target.state().process.pid);
    expect(known.clock).toBeDefined();
    expect(continuityOf(known, await read(), ["m"])).toBe("same");
    const { connectionNumber } = connection;
    await target.restart();
    await until("it is connected again", () => connection.connectionNumber > connectionNumber);
    const next = await read();
    expect(continuityOf({ ...known, socketMtimeNs: undefined }, next, ["m"])).toBe("restarted");
    expect(continuityOf(known, { ...next, pid: undefined, clock: undefined }, ["m"])).toBe(
      "restarted",
    );
  });
});
