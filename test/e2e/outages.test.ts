// The database or the target is unavailable, at start or later: the agent keeps running, reports
// the reason, refuses changes that it cannot commit, and recovers by itself once both are back.
import { credentials } from "@grpc/grpc-js";
import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Client } from "pg";
import { describe, expect, it } from "vitest";
import { HealthClient } from "../../src/gen/grpc/health/v1/health.ts";
import { migrate, MIGRATIONS_DIR } from "../../src/store/migrate.ts";
import { call, refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import { DatabaseProxy } from "../support/database-proxy.ts";
import { testDatabase } from "../support/database.ts";
import { REAL_SOCKET, startTarget } from "../support/target.ts";
import { getLvol, idOf, lvolSpec, provision, remove, stateOf, WAIT } from "../support/volumes.ts";

async function componentOf({ client }: TestAgent, name: string) {
  const { ready, components } = await call(client, client.getHealth.bind(client), {});
  return { ready, component: components.find((one) => one.name === name) };
}

describe("an agent whose database is down", () => {
  it("reports it, refuses changes, and becomes ready when the database is up", async () => {
    await using stack = new AsyncDisposableStack();
    const database = stack.use(await testDatabase());
    const proxy = stack.use(await DatabaseProxy.open(database.url));
    await proxy.down();
    const target = stack.use(await startTarget());
    const agent = stack.use(await startAgent({ url: proxy.url, target }));
    const { ready, component } = await componentOf(agent, "database");
    expect({ ready, ok: component?.ok }).toEqual({ ready: false, ok: false });
    expect(component?.reason).not.toContain("postgres:");
    expect(await refusal(provision(agent))).toMatchObject({ code: 14, reason: "DATABASE_DOWN" });
    const { disks } = await call(agent.client, agent.client.listDisks.bind(agent.client), {
      pageSize: 0,
      pageToken: "",
    }).catch(() => ({ disks: [] }));
    expect(disks).toEqual([]);
    await proxy.up();
    await agent.ready();
    expect(stateOf(await provision(agent))).toBe("LVOL_STATE_UP");
  });

  it("keeps serving reads, refuses changes, and loses no accepted change", async () => {
    await using stack = new AsyncDisposableStack();
    const database = stack.use(await testDatabase());
    const proxy = stack.use(await DatabaseProxy.open(database.url));
    const target = stack.use(await startTarget());
    const agent = stack.use(await startAgent({ url: proxy.url, target }));
    await agent.ready();
    const kept = await provision(agent);
    await proxy.down();
    expect(await refusal(provision(agent))).toMatchObject({ code: 14, reason: "DATABASE_DOWN" });
    expect(await refusal(remove(agent, idOf(kept)))).toMatchObject({ code: 14 });
    expect(stateOf(await getLvol(agent, idOf(kept)))).toBe("LVOL_STATE_UP");
    expect((await componentOf(agent, "database")).component).toMatchObject({ ok: false });
    await proxy.up();
    await until("the database is reached again", async () => {
      return (await componentOf(agent, "database")).component?.ok === true;
    });
    expect(await remove(agent, idOf(kept))).toEqual({ done: true });
    expect(stateOf(await provision(agent))).toBe("LVOL_STATE_UP");
  });

  it("answers a change with unknown commit outcome as UNAVAILABLE; a repeat changes nothing more", async () => {
    await using stack = new AsyncDisposableStack();
    const database = stack.use(await testDatabase());
    const proxy = stack.use(await DatabaseProxy.open(database.url));
    const target = stack.use(await startTarget());
    const agent = stack.use(await startAgent({ url: proxy.url, target }));
    await agent.ready();
    const id = randomUUID();
    const stopped = proxy.stopAt({ when: "after", nth: 1, with: "insert into lvol" });
    const asked = refusal(provision(agent, {}, { id }));
    await stopped;
    proxy.cut();
    expect(await asked).toMatchObject({ code: 14, reason: "DATABASE_DOWN" });
    await until("the volume that was committed is UP", async () => {
      const lvol = await getLvol(agent, id).catch(() => undefined);
      return lvol !== undefined && stateOf(lvol) === "LVOL_STATE_UP";
    });
    expect(idOf(await provision(agent, {}, { id }))).toBe(id);
    const lvols = await target.spdk.bdevLvolGetLvols();
    expect(lvols.map(({ name }) => name)).toEqual([id]);
  });
});

describe("an agent whose database has no schema, or an old one", () => {
  it("names the migrate command, and recovers by itself once it was run", async () => {
    await using stack = new AsyncDisposableStack();
    const database = stack.use(await testDatabase({ migrated: false }));
    const target = stack.use(await startTarget());
    const agent = stack.use(await startAgent({ url: database.url, target }));
    await until("it says so", async () => {
      const { component } = await componentOf(agent, "database");
      return component?.reason.includes('run "storage-node migrate"') === true;
    });
    expect(await refusal(provision(agent))).toMatchObject({ reason: "DATABASE_DOWN" });
    const client = new Client({ connectionString: database.url });
    await client.connect();
    await migrate(client, MIGRATIONS_DIR);
    await client.end();
    await agent.ready();
    expect(stateOf(await provision(agent))).toBe("LVOL_STATE_UP");
  });
});

describe("an agent whose target is down", () => {
  it("runs without being ready when the socket does not exist, and names the target as the reason", async () => {
    await using stack = new AsyncDisposableStack();
    const database = stack.use(await testDatabase());
    const folder = await mkdtemp(join(tmpdir(), "sn-none-"));
    stack.defer(async () => await rm(folder, { recursive: true }));
    const target = stack.use(await startTarget());
    const missing = { socket: join(folder, "none.sock"), fabricDisks: target.fabricDisks };
    const agent = stack.use(await startAgent({ url: database.url, target: missing }));
    await until("the database is reached", async () => {
      return (await componentOf(agent, "database")).component?.ok === true;
    });
    const { ready, component } = await componentOf(agent, "target");
    expect({ ready, ok: component?.ok }).toEqual({ ready: false, ok: false });
    expect(component?.reason).toBe(`connection failed: connect ENOENT ${missing.socket}`);
    const health = new HealthClient(agent.address, credentials.createInsecure());
    stack.defer(() => health.close());
    const service = "storagenode.v1.StorageNode";
    const status = await new Promise((resolve, reject) => {
      health.check({ service }, (error, answer) => {
        if (error === null) resolve(answer.status);
        else reject(error);
      });
    });
    expect(status).toBe("NOT_SERVING");
  });

  it.skipIf(REAL_SOCKET !== undefined)(
    "accepts intents meanwhile and executes them when the target is back",
    async () => {
      await using stack = new AsyncDisposableStack();
      const database = stack.use(await testDatabase());
      const target = stack.use(await startTarget());
      const agent = stack.use(await startAgent({ url: database.url, target }));
      await agent.ready();
      const old = await provision(agent);
      await target.kill();
      await until("the target is disconnected", async () => {
        return (await componentOf(agent, "target")).component?.ok === false;
      });
      expect((await componentOf(agent, "target")).ready).toBe(false);
      const made = await provision(agent, {}, { wait: false });
      expect(stateOf(made)).toBe("LVOL_STATE_CREATING");
      // A call whose deadline expires while it waits is committed all the same.
      const id = randomUUID();
      const request = { id, spec: lvolSpec(), waitTimeout: WAIT, validateOnly: false };
      const deadline = Date.now() + 500;
      const { client } = agent;
      const asked = call(client, client.provisionLvol.bind(client), request, { deadline });
      expect((await refusal(asked)).code).toBe(4);
      expect(stateOf(await getLvol(agent, id))).toBe("LVOL_STATE_CREATING");
      expect(stateOf(await getLvol(agent, idOf(old)))).toBe("LVOL_STATE_DEGRADED");
      const gone = remove(agent, idOf(old));
      await target.restart();
      expect(await gone).toEqual({ done: true });
      await until("the new ones are UP", async () => {
        const both = await Promise.all([getLvol(agent, idOf(made)), getLvol(agent, id)]);
        return both.every((one) => stateOf(one) === "LVOL_STATE_UP");
      });
    },
  );
});
