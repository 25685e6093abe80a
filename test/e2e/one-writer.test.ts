// One agent changes a node at a time, whatever is started twice, stopped for a while or killed; the
// others say why they do nothing.
import { credentials } from "@grpc/grpc-js";
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { StorageNodeClient } from "../../src/gen/storagenode/v1/storage_node.ts";
import { agentProcess } from "../support/agent-process.ts";
import { call, refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
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
  it("on one target and two databases: one works, the other says why it does not", async () => {
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

    // Alone at last, it finds volumes that its database does not know: it leaves them as they are.
    await first[Symbol.asyncDispose]();
    await until(
      "the second one leads",
      async () => (await componentOf(second, "lease")).ok === true,
    );
    await until("it knows the disk", () => [...second.node.agent.rows.disks()].length === 1);
    await until("the disk is not taken", () => {
      return [...second.node.agent.rows.disks()].every(({ state }) => state === "FOREIGN");
    });
    const held = target.state();
    expect([...held.stores.values()].flatMap(({ lvols }) => [...lvols.values()])).toHaveLength(2);
    expect(held.subsystems.get(volume.status?.nqn ?? "")?.namespaces.size).toBe(1);
  });

  it("on one database and two targets: the second waits for the lease, and leads when it ends", async () => {
    await using stack = new AsyncDisposableStack();
    const database = stack.use(await testDatabase());
    const [here, there] = [stack.use(await inProcessTarget()), stack.use(await inProcessTarget())];
    const first = await startAgent({ url: database.url, target: here });
    await first.ready();
    const second = stack.use(await startAgent({ url: database.url, target: there }));
    await until("the second one stands by", async () => {
      return (await componentOf(second, "lease")).reason?.includes("held by") === true;
    });
    await until("it refuses changes for that reason", async () => {
      return (await refusal(provision(second, SMALL))).reason === "NOT_LEASE_HOLDER";
    });
    expect([...there.state().subsystems.keys()].filter((nqn) => nqn.includes("owner"))).toEqual([]);
    await first[Symbol.asyncDispose]();
    await until(
      "the second one leads",
      async () => (await componentOf(second, "lease")).ok === true,
    );
  });

  it("that is killed: the next on this machine leads at once, however long the lease was", async () => {
    await using scenario = await crashScenario({ leaseTermMs: 3_600_000 });
    const first = await scenario.start();
    await first.ready();
    const volume = await provision(first, SMALL);
    await scenario.killAgent();
    const second = await scenario.start();
    await second.ready();
    expect(stateOf(await provision(second, SMALL, { id: idOf(volume) }))).toBe("LVOL_STATE_UP");
  });

  it("of which one is stopped in the middle of a transaction: its locks do not keep the next out", async () => {
    await using scenario = await crashScenario({ leaseTermMs: 900 });
    const first = await scenario.start();
    await first.ready();
    const reached = scenario.database().stopAt({ when: "before", nth: 1 });
    const asked = provision(first, SMALL).catch(() => {});
    await reached;
    await scenario.takeOver();
    const id = idOf(await provision(scenario.agent(), SMALL));
    await settled(scenario);
    expect(onTarget(scenario)).toEqual(exactly([id]));
    await scenario.killAgent();
    await asked;
  });

  it("of which one is stopped beyond its lease: it changes nothing when it goes on", async () => {
    await using stack = new AsyncDisposableStack();
    const database = stack.use(await testDatabase());
    const target = stack.use(await inProcessTarget());
    const folder = stack.use(await temporaryFolder());
    const leaseTermMs = 1_500;
    const stopped = stack.use(
      await agentProcess({
        env: {
          DATABASE_URL: database.url,
          STORAGE_NODE_ID: "node-1",
          STORAGE_NODE_FLEET: "test",
          STORAGE_NODE_SPDK_SOCKET: target.socket,
          STORAGE_NODE_FABRIC_DISKS: target.fabricDisks,
          STORAGE_NODE_DISK_POLICY: "auto",
          STORAGE_NODE_LISTEN: "127.0.0.1:0",
          STORAGE_NODE_HTTP_LISTEN: "127.0.0.1:0",
          STORAGE_NODE_EXPORT_PORT: "4440",
          STORAGE_NODE_ROOT: folder.path,
          STORAGE_NODE_STATE_DIR: join(folder.path, "state"),
        },
        leaseTermMs,
        lockPath: join(folder.path, "another-way-in"),
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

    // In the middle of a volume: made, its answer unsent, its namespace still to come.
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
    await until("it knows that it does not lead any more", async () => {
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

describe("a target that another node has marked as its own", () => {
  it("is looked at, named, and not changed", async () => {
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
        { lockPath: join(folder.path, "another-way-in") },
      ),
    );
    await until("it says whose it is", async () => {
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

describe("an agent whose database is away while its target restarts", () => {
  it("brings the exports back, and makes and deletes nothing", async () => {
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
    await until("both are there", () => onTarget(scenario).exported.length === 2);
    expect(onTarget(scenario)).toEqual(exactly([idOf(kept), asked]));
  });
});
