// At most one agent changes a node at a time, even if agents are started twice, stopped with
// SIGSTOP or killed; the others report why they change nothing.
import { credentials } from "@grpc/grpc-js";
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { StorageNodeClient } from "../../src/gen/storagenode/v1/storage_node.ts";
import { agentProcess } from "../support/agent-process.ts";
import { agentEnv, call, refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import { crashScenario, exactly, onTarget, settled } from "../support/crash-scenario.ts";
import { testDatabase } from "../support/database.ts";
import { inProcessTarget } from "../support/in-process-target.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { getLvol, GIB, idOf, provision, remove, stateOf } from "../support/volumes.ts";

const SMALL = { sizeBytes: GIB / 16n };

type Client = Pick<TestAgent, "client">;

async function componentOf({ client }: Client, name: string) {
  const { ready, components } = await call(client, client.getHealth.bind(client), {});
  return { ready, ...components.find((one) => one.name === name) };
}

describe("two agents for one node", () => {
  it("on one target and two databases: one leads, the other reports the lock as the reason", async () => {
    await using stack = new AsyncDisposableStack();
    const target = stack.use(await inProcessTarget());
    const [one, two] = [stack.use(await testDatabase()), stack.use(await testDatabase())];
    const first = await startAgent({ url: one.url, target });
    await first.ready();
    const volume = await provision(first, SMALL);
    const second = stack.use(await startAgent({ url: two.url, target }));
    await until("the second one stands by", async () => {
      return (await componentOf(second, "lease")).reason?.includes("another agent holds") === true;
    });
    expect(await componentOf(second, "lease")).toMatchObject({ ready: false, ok: false });
    await until("it refuses changes for that reason", async () => {
      const { code, reason } = await refusal(provision(second, SMALL));
      return code === 14 && reason === "NOT_LEASE_HOLDER";
    });
    expect(stateOf(await provision(first, SMALL))).toBe("LVOL_STATE_UP");

    // Once it leads, it finds volumes without rows in its database and does not change them.
    await first[Symbol.asyncDispose]();
    await until(
      "the second one leads",
      async () => (await componentOf(second, "lease")).ok === true,
    );
    await until("it knows the disk", () => [...second.node.agent.rows.disks()].length === 1);
    await until("the disk is FOREIGN", () => {
      return [...second.node.agent.rows.disks()].every(({ state }) => state === "FOREIGN");
    });
    const held = target.state();
    expect([...held.stores.values()].flatMap(({ lvols }) => [...lvols.values()])).toHaveLength(2);
    expect(held.subsystems.get(volume.status?.nqn ?? "")?.namespaces.size).toBe(1);
  });

  it("on one database and two targets: the second waits for the lease, and leads when it ends", async () => {
    await using stack = new AsyncDisposableStack();
    const database = stack.use(await testDatabase());
    const [one, two] = [stack.use(await inProcessTarget()), stack.use(await inProcessTarget())];
    const first = await startAgent({ url: database.url, target: one });
    await first.ready();
    const second = stack.use(await startAgent({ url: database.url, target: two }));
    await until("the second one stands by", async () => {
      return (await componentOf(second, "lease")).reason?.includes("held by") === true;
    });
    await until("it refuses changes for that reason", async () => {
      return (await refusal(provision(second, SMALL))).reason === "NOT_LEASE_HOLDER";
    });
    expect([...two.state().subsystems.keys()].filter((nqn) => nqn.includes("owner"))).toEqual([]);
    await first[Symbol.asyncDispose]();
    await until(
      "the second one leads",
      async () => (await componentOf(second, "lease")).ok === true,
    );
  });

  it("of which the first is killed: the next on this machine leads at once despite a long lease", async () => {
    await using scenario = await crashScenario({ leaseTermMs: 3_600_000 });
    const first = await scenario.start();
    await first.ready();
    const volume = await provision(first, SMALL);
    await scenario.killAgent();
    const second = await scenario.start();
    await second.ready();
    expect(stateOf(await provision(second, SMALL, { id: idOf(volume) }))).toBe("LVOL_STATE_UP");
  });

  it("of which one is stopped inside a transaction: its row locks do not block the next", async () => {
    await using scenario = await crashScenario({ leaseTermMs: 900 });
    const first = await scenario.start();
    await first.ready();
    const reached = scenario.database().stopAt({ when: "before", nth: 1 });
    const asked = provision(first, SMALL).catch(() => {});
    await reached;
    await scenario.takeOver();
    const id = randomUUID();
    // With a lease that short, a busy machine may take longer for the commit than it lasts.
    await until("the next one has made a volume", () => {
      const made = provision(scenario.agent(), SMALL, { id });
      return made.then(() => true).catch(() => false);
    });
    await settled(scenario);
    expect(onTarget(scenario)).toEqual(exactly([id]));
    await scenario.killAgent();
    await asked;
  });

  it("of which one is stopped until its lease expired: it changes nothing when it continues", async () => {
    await using stack = new AsyncDisposableStack();
    const database = stack.use(await testDatabase());
    const target = stack.use(await inProcessTarget());
    const folder = stack.use(await temporaryFolder());
    const leaseTermMs = 1_500;
    const stopped = stack.use(
      await agentProcess({
        env: agentEnv({
          url: database.url,
          target,
          root: folder.path,
          stateDir: join(folder.path, "state"),
        }),
        leaseTermMs,
        lockPath: join(folder.path, "other-lock"),
      }),
    );
    const client = new StorageNodeClient(stopped.address, credentials.createInsecure());
    stack.defer(() => client.close());
    await until("it is ready", async () => (await componentOf({ client }, "lease")).ready);
    await until("its disk is UP", async () => {
      const list = await call(client, client.listDisks.bind(client), {
        pageSize: 0,
        pageToken: "",
      });
      return list.disks.some(({ status }) => status?.state === "DISK_STATE_UP");
    });

    // Stop in the middle of a provision: lvol created, answer unsent, namespace not added yet.
    const { gate } = target.engine();
    const reached = new Promise((resolve) => (gate.onStopped = resolve));
    gate.stopAt({ when: "after", method: "bdev_lvol_create", nth: 1 });
    const id = randomUUID();
    const answer = provision({ client }, SMALL, { id }).catch(() => {});
    await reached;
    stopped.signal("SIGSTOP");
    target.resume();

    const next = stack.use(
      await startAgent({ url: database.url, target, timing: { leaseTermMs } }),
    );
    await next.ready();
    expect(stateOf(await provision(next, SMALL, { id }))).toBe("LVOL_STATE_UP");
    expect(await remove(next, id)).toEqual({ done: true });
    const kept = await provision(next, SMALL);
    const before = gate.counts;

    stopped.signal("SIGCONT");
    await until("it reports that it lost the lease", async () => {
      return (await componentOf({ client }, "lease")).ok === false;
    });
    await answer;
    expect(await refusal(provision({ client }, SMALL))).toMatchObject({
      reason: "NOT_LEASE_HOLDER",
    });
    const after = Object.entries(gate.counts).filter(([method, count]) => {
      return !/get_|version/.test(method) && count !== before[method];
    });
    expect(after).toEqual([]);
    expect(stateOf(await getLvol(next, idOf(kept)))).toBe("LVOL_STATE_UP");
  });
});

describe("a target with the owner subsystem of another node", () => {
  it("is read and not changed, and health names its owner", async () => {
    await using stack = new AsyncDisposableStack();
    const target = stack.use(await inProcessTarget());
    const folder = stack.use(await temporaryFolder());
    const one = stack.use(await testDatabase());
    const owner = stack.use(await startAgent({ url: one.url, target }));
    await owner.ready();
    const volume = await provision(owner, SMALL);
    const before = target.engine().gate.counts;
    const two = stack.use(await testDatabase());
    const stranger = stack.use(
      await startAgent(
        { url: two.url, target },
        { STORAGE_NODE_ID: "node-2" },
        { lockPath: join(folder.path, "other-lock") },
      ),
    );
    await until("health names the owner", async () => {
      return (await componentOf(stranger, "target")).reason?.includes("node-1") === true;
    });
    expect(await componentOf(stranger, "target")).toMatchObject({ ok: false, ready: false });
    const changed = Object.entries(target.engine().gate.counts).filter(([method, count]) => {
      return !/get_|version/.test(method) && count !== before[method];
    });
    expect(changed).toEqual([]);
    expect(stateOf(await getLvol(owner, idOf(volume)))).toBe("LVOL_STATE_UP");
  });
});

describe("an agent whose database is down while its target restarts", () => {
  it("restores the exports, and creates and deletes no lvol", async () => {
    await using scenario = await crashScenario({ leaseTermMs: 900 });
    const agent = await scenario.start();
    await agent.ready();
    const kept = await provision(agent, SMALL);
    const { gate } = scenario.target.engine();
    gate.stopAt({ when: "before", method: "bdev_lvol_create", nth: 1 });
    const stopped = new Promise((resolve) => (gate.onStopped = resolve));
    const asked = idOf(await provision(agent, SMALL, { wait: false }));
    await stopped;
    await scenario.database().down();
    await until("the lease has run out", async () => {
      return (await componentOf(agent, "lease")).ok === false;
    });
    await scenario.target.restart();
    await until("the export is back", () => onTarget(scenario).exported.length === 1);
    expect(onTarget(scenario).lvols).toEqual([idOf(kept)]);
    expect(await refusal(provision(agent, SMALL))).toMatchObject({ code: 14 });
    const { counts } = scenario.target.engine().gate;
    expect(counts["bdev_lvol_create"]).toBeUndefined();
    await scenario.database().up();
    await settled(scenario);
    await until("both volumes are exported", () => onTarget(scenario).exported.length === 2);
    expect(onTarget(scenario)).toEqual(exactly([idOf(kept), asked]));
  });
});
