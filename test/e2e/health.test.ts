// Each way in which a node can be ill, as an operator sees it: readiness, GetHealth, `status`, `explain`.
import { symlink, unlink } from "node:fs/promises";
import { join } from "node:path";
import { Client } from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readConfig } from "../../src/config.ts";
import { startTelemetry, type Telemetry } from "../../src/telemetry/telemetry.ts";
import { call, refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import { DatabaseProxy } from "../support/database-proxy.ts";
import { testDatabase, type TestDatabase } from "../support/database.ts";
import { explainDisk, explainVolume, storageNode } from "../support/explain.ts";
import { inProcessTarget } from "../support/in-process-target.ts";
import { scrape } from "../support/scrape.ts";
import { REAL_SOCKET, startTarget, type TestTarget } from "../support/target.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { getLvol, HOST, idOf, provision, stateOf } from "../support/volumes.ts";

const SILENCE_S = "2";

let telemetry: Telemetry;
let target: TestTarget;
let database: TestDatabase;
let agent: TestAgent;
let volume: string;
let stateDir: Awaited<ReturnType<typeof temporaryFolder>>;

function anotherTelemetry(): Telemetry {
  const { telemetry: config } = readConfig({ DATABASE_URL: "postgresql:///x" });
  return startTelemetry(config, { nodeId: "node-1", fleet: "test", version: "0" });
}

beforeAll(async () => {
  telemetry = anotherTelemetry();
  target = await startTarget({ disks: 1 });
  database = await testDatabase();
  stateDir = await temporaryFolder();
  const env = {
    STORAGE_NODE_TARGET_SILENCE: SILENCE_S,
    STORAGE_NODE_STATE_DIR: stateDir.path,
  };
  agent = await startAgent({ url: database.url, target }, env, { telemetry });
  await agent.ready();
  volume = idOf(await provision(agent));
});

afterAll(async () => {
  await agent[Symbol.asyncDispose]();
  await telemetry[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
  await stateDir[Symbol.asyncDispose]();
});

async function readyz({ node }: TestAgent) {
  const response = await fetch(`http://${node.httpAddress}/readyz`);
  return { code: response.status, text: await response.text() };
}

async function health({ client }: TestAgent) {
  const { ready, components } = await call(client, client.getHealth.bind(client), {});
  return { ready, of: (name: string) => components.find((one) => one.name === name) };
}

const statusOf = async ({ address }: TestAgent) =>
  (await storageNode(["status", "--address", address])).out;

async function exportOf({ client }: TestAgent) {
  const asked = { target: { $case: "lvolId", value: volume }, hostNqn: "" } as const;
  const { export: found } = await call(client, client.getExport.bind(client), asked);
  return { ready: found?.ready, reason: found?.conditions.find((c) => c.type === "Ready")?.reason };
}

describe.skipIf(REAL_SOCKET !== undefined)("a target that is stopped", () => {
  it("is not ready within the stated time, and neither is what lies on it, until it answers again", async () => {
    const pid = target.pid() ?? 0;
    process.kill(pid, "SIGSTOP");
    try {
      await until("it is not ready", async () => (await readyz(agent)).code === 503);
      const silent = /^not ready\ntarget: takes requests and has answered none since 20\S+Z\n/;
      expect((await readyz(agent)).text).toMatch(silent);
      const { ready, of } = await health(agent);
      expect({ ready, ok: of("target")?.ok }).toEqual({ ready: false, ok: false });
      expect(await exportOf(agent)).toEqual({ ready: false, reason: "TARGET_DOWN" });
      expect(stateOf(await getLvol(agent, volume))).toBe("LVOL_STATE_DEGRADED");
      const [disk] = [...agent.node.agent.rows.disks()];
      const why = [await explainVolume(agent, volume), await explainDisk(agent, disk?.id ?? "")];
      for (const { summary } of why) {
        expect(summary).toMatch(
          /takes requests and does not answer them since 20.*hangs or is stopped/,
        );
      }
      const screen = await statusOf(agent);
      expect(screen).toMatch(/^target +NOT OK +for \d+ s +takes requests/m);
      expect(screen).toMatch(/^capacity +1 GiB promised, size and free space unknown/m);
    } finally {
      process.kill(pid, "SIGCONT");
    }
    await agent.ready();
    expect(await exportOf(agent)).toEqual({ ready: true, reason: "READY" });
    expect(stateOf(await getLvol(agent, volume))).toBe("LVOL_STATE_UP");
  });
});

/** Not ready for this reason alone, with this cure, in every answer; and ready again after it. */
async function illness(
  name: string,
  said: { readonly reason: RegExp; readonly cure: RegExp },
): Promise<void> {
  await until(`${name} is named`, async () => said.reason.test((await readyz(agent)).text));
  const { code, text } = await readyz(agent);
  expect(code).toBe(503);
  expect(text).toMatch(said.cure);
  const { ready, of } = await health(agent);
  expect({ ready, ok: of(name)?.ok, needed: of(name)?.needed }).toEqual({
    ready: false,
    ok: false,
    needed: true,
  });
  expect(of(name)?.reason).toMatch(said.reason);
  expect(of(name)?.cure).toMatch(said.cure);
  expect(await statusOf(agent)).toMatch(new RegExp(`^${name} +NOT OK`, "m"));
}

const small = { sizeBytes: 1024n ** 2n } as const;

describe.skipIf(REAL_SOCKET !== undefined)("changes that cannot be committed", () => {
  it("are named with the column that somebody has added, until it is gone", async () => {
    await database.query("alter table lvol add column foreign_thing text not null default 'x'");
    try {
      expect((await refusal(provision(agent, small))).reason).toBe("INTERNAL");
      await illness("writes", { reason: /column "foreign_thing"/, cure: /undo what was changed/ });
      const { summary } = await explainVolume(agent, volume);
      expect(summary).toMatch(/no change can be committed: .*"foreign_thing".*; cure: undo what/);
      expect((await health(agent)).of("database")?.ok).toBe(true);
    } finally {
      await database.query("alter table lvol drop column foreign_thing");
    }
    await agent.ready();
    expect(stateOf(await provision(agent, small))).toBe("LVOL_STATE_UP");
  });

  it("are named with the row that cannot be read, until it can be", async () => {
    const kept = `update lvol set request = request - 'thin' where id = '${volume}'`;
    await database.query(kept);
    await database.query("update node set revision = revision + 1");
    try {
      expect((await refusal(provision(agent, small))).reason).toBe("INTERNAL");
      const row = new RegExp(`row ${volume} of table lvol cannot be read: request.thin: `);
      await illness("writes", { reason: row, cure: /correct the row/ });
      const { summary } = await explainVolume(agent, volume);
      expect(summary).toMatch(/no change can be committed: row .*; cure: correct the row/);
    } finally {
      const corrected = `update lvol set request = request || '{"thin": true}' where id = '${volume}'`;
      await database.query(corrected);
      await database.query("update node set revision = revision + 1");
    }
    await agent.ready();
    expect(stateOf(await provision(agent, small))).toBe("LVOL_STATE_UP");
  });

  it("do not make readiness flap while somebody holds a lock on a table", async () => {
    await agent.ready();
    const holder = new Client({ connectionString: database.url });
    await holder.connect();
    const seen: boolean[] = [];
    const look = setInterval(() => {
      const ready = agent.node.agent.ready();
      if (ready !== seen.at(-1)) seen.push(ready);
    }, 5);
    try {
      await holder.query("begin; lock table lvol in share mode");
      const refused = await refusal(provision(agent, small));
      expect(refused).toMatchObject({ reason: "DATABASE_DOWN", code: 14 });
      expect(refused.message).toContain("lock timeout");
      await illness("writes", { reason: /lock timeout/, cure: /pg_blocking_pids/ });
      const since = (await health(agent)).of("writes")?.since;
      // It is tried again and again meanwhile.
      const again = await refusal(provision(agent, small));
      expect(again.reason).toBe("DATABASE_DOWN");
      expect((await health(agent)).of("writes")?.since).toEqual(since);
      expect(seen).toEqual([true, false]);
    } finally {
      clearInterval(look);
      await holder.query("rollback");
      await holder.end();
    }
    await agent.ready();
  }, 60_000);
});

describe.skipIf(REAL_SOCKET !== undefined)("a state folder that is full", () => {
  it("is named, blames no database, ends no lease, and keeps no agent from ending", async () => {
    await using folder = await temporaryFolder();
    await using db = await testDatabase();
    await using own = await inProcessTarget();
    await using seen = anotherTelemetry();
    const env = { STORAGE_NODE_STATE_DIR: folder.path };
    const timing = { leaseTermMs: 900 };
    const parts = { url: db.url, target: own, timing };
    await using other = await startAgent(parts, env, { telemetry: seen });
    await other.ready();
    // Whatever is written there finds no space left on the device.
    const next = join(folder.path, "node.json.new");
    await symlink("/dev/full", next);
    const component = async (name: string) => (await health(other)).of(name);
    await until("it is named", async () => (await component("state-dir"))?.ok === false);
    const reason = (await component("state-dir"))?.reason;
    expect(reason).toBe(`${folder.path} cannot be written: ENOSPC: no space left on device, write`);
    expect((await component("state-dir"))?.cure).toMatch(/make room in STORAGE_NODE_STATE_DIR/);
    expect([(await component("database"))?.ok, (await component("lease"))?.ok]).toEqual([
      true,
      true,
    ]);
    expect(other.node.agent.ready()).toBe(false);
    expect((await readyz(other)).text).toMatch(/^not ready\nstate-dir: .*ENOSPC/);
    await unlink(next);
    await other.ready();
    await symlink("/dev/full", next);
    await until("it is named again", async () => (await component("state-dir"))?.ok === false);
    // SIGTERM does the same.
    await other.node[Symbol.asyncDispose]();
  });
});

describe.skipIf(REAL_SOCKET !== undefined)(
  "an agent that starts while the database is away",
  () => {
    it("knows nothing of capacity, volumes and lease, and says so", async () => {
      await using proxy = await DatabaseProxy.open(database.url);
      await using folder = await temporaryFolder();
      await proxy.down();
      const nobody = { socket: join(folder.path, "nobody"), fabricDisks: "" };
      await using seen = anotherTelemetry();
      const parts = { url: proxy.url, target: nobody };
      await using other = await startAgent(parts, {}, { telemetry: seen });
      await until("the database was tried", async () => {
        return /cannot be reached: /.test((await health(other)).of("database")?.reason ?? "");
      });
      expect((await health(other)).of("lease")?.reason).toMatch(/^not taken: the database cannot/);
      const { client } = other;
      const { capacity } = await call(client, client.getNode.bind(client), {});
      const ill = [...(await readyz(other)).text.matchAll(/^([\w-]+): /gm)].map(([, name]) => name);
      expect(ill).toEqual(["database", "writes", "lease", "target", "verify"]);
      expect(capacity).toBeUndefined();
      const screen = await statusOf(other);
      expect(screen).toMatch(/^capacity +unknown: the database was not read/m);
      expect(screen).toMatch(/^volumes +unknown: the database was not read/m);
      expect(screen).not.toMatch(/renewed| 0 bytes/);
      expect([...(await scrape(other)).keys()].filter((key) => /capacity/.test(key))).toEqual([]);
    });
  },
);

describe.skipIf(REAL_SOCKET !== undefined)(
  "an agent that starts with a database that answers",
  () => {
    const unready = async (other: TestAgent) => {
      const { of } = await health(other);
      const names = ["database", "writes", "lease", "verify"];
      return Object.fromEntries(names.map((name) => [name, of(name)]));
    };

    it("blames the row that it cannot read, and neither database nor copy", async () => {
      await using db = await testDatabase();
      await using own = await inProcessTarget();
      await using folder = await temporaryFolder();
      await using seen = anotherTelemetry();
      const env = { STORAGE_NODE_STATE_DIR: folder.path };
      const parts = { url: db.url, target: own };
      let id = "";
      {
        await using first = await startAgent(parts, env);
        await first.ready();
        id = idOf(await provision(first, small));
      }
      await db.query(`update lvol set request = request - 'thin'`);
      await using other = await startAgent(parts, env, { telemetry: seen });
      const row = `row ${id} of table lvol cannot be read: request.thin: `;
      await until("the lease waits for it", async () => {
        return (await health(other)).of("lease")?.reason.startsWith(`not taken: ${row}`) === true;
      });
      const { database: base, writes, lease, verify } = await unready(other);
      expect(base?.ok).toBe(true);
      expect(writes?.reason).toContain(row);
      for (const one of [writes, lease]) expect(one?.cure).toMatch(/^correct the row/);
      expect(verify?.reason).toBe("the rows were not read yet");
      const refused = await refusal(explainVolume(other, id));
      expect(refused.message).toMatch(/not read its rows yet: .*request.thin.*; correct the row/);
      await db.query(`update lvol set request = request || '{"thin": true}'`);
      await other.ready();
    });

    it("asks for the migration of an older schema, in every answer", async () => {
      await using db = await testDatabase();
      await using own = await inProcessTarget();
      await using seen = anotherTelemetry();
      const last = "select max(version) from schema_migration";
      await db.query(`delete from schema_migration where version = (${last})`);
      const parts = { url: db.url, target: own };
      await using other = await startAgent(parts, {}, { telemetry: seen });
      await until("the schema was read", async () => {
        return /schema is older/.test((await health(other)).of("database")?.reason ?? "");
      });
      const { database: base, lease } = await unready(other);
      for (const one of [base, lease]) expect(one?.cure).toBe(`run "storage-node migrate"`);
      const refused = await refusal(explainVolume(other, volume));
      expect(refused.message).toMatch(/the schema is older .*; run "storage-node migrate"$/);
    });

    it("waits for the database before it is verified, also when it has the rows of its copy", async () => {
      await using db = await testDatabase();
      await using proxy = await DatabaseProxy.open(db.url);
      await using own = await inProcessTarget();
      await using folder = await temporaryFolder();
      await using seen = anotherTelemetry();
      const env = { STORAGE_NODE_STATE_DIR: folder.path };
      const parts = { url: proxy.url, target: own };
      {
        await using first = await startAgent(parts, env);
        await first.ready();
        await provision(first, small);
      }
      await proxy.down();
      await using other = await startAgent(parts, env, { telemetry: seen });
      await until("it has them", async () => {
        return /local copy/.test((await health(other)).of("copy")?.reason ?? "");
      });
      const { verify } = await unready(other);
      expect(verify?.reason).toBe("the rows of the database were not read yet");
      expect(verify?.cure).toMatch(/^see the other components/);
      await until("the disk is there", async () => /SIM0 +UP/.test(await statusOf(other)));
      // Neither is in the copy.
      const line = /^SIM0 .*$/m.exec(await statusOf(other))?.[0];
      expect(line).not.toMatch(/0 bytes|not zeroed/);
      const [row] = [...other.node.agent.rows.disks()];
      const { client } = other;
      const { disk } = await call(client, client.getDisk.bind(client), { diskId: row?.id ?? "" });
      const zeroed = disk?.status?.conditions.find(({ type }) => type === "FreeSpaceZeroed");
      expect(zeroed).toMatchObject({ status: "CONDITION_STATUS_UNKNOWN", reason: "NotRead" });
    });
  },
);

describe.skipIf(REAL_SOCKET !== undefined)("a database that falls silent", () => {
  it("is not ok while the renewal of the lease waits, and is once it was answered", async () => {
    await using db = await testDatabase();
    await using proxy = await DatabaseProxy.open(db.url);
    await using own = await inProcessTarget();
    await using seen = anotherTelemetry();
    const parts = { url: proxy.url, target: own, timing: { leaseTermMs: 3_000 } };
    await using other = await startAgent(parts, {}, { telemetry: seen });
    await other.ready();
    const taken = (await health(other)).of("lease")?.since?.getTime() ?? Infinity;
    proxy.freeze();
    await until("it is named", async () => {
      // The latter if it was about to record something.
      const named = /database: (no answer since 20|the database cannot be reached)/;
      return named.test((await readyz(other)).text);
    });
    const cure = /start PostgreSQL or its network/;
    expect((await health(other)).of("database")?.cure).toMatch(cure);
    await until("the lease is over", async () => (await health(other)).of("lease")?.ok === false);
    const lease = (await health(other)).of("lease");
    expect(lease?.reason).toMatch(/^not renewed in time: (no answer since|the database cannot)/);
    expect(lease?.cure).toMatch(cure);
    // Since it was over, not since it was taken.
    expect(lease?.since?.getTime()).toBeGreaterThan(taken);
    proxy.thaw();
    await other.ready();
  });
});

describe.skipIf(REAL_SOCKET !== undefined)("a transport that the target cannot make", () => {
  it("is the cause in every answer, and nothing is exported meanwhile", async () => {
    await using db = await testDatabase();
    await using own = await inProcessTarget();
    await using seen = anotherTelemetry();
    const parts = { url: db.url, target: own };
    let id = "";
    {
      await using first = await startAgent(parts);
      await first.ready();
      id = idOf(await provision(first, small));
    }
    await own.restart();
    {
      await using second = await startAgent(parts);
      await second.ready();
    }
    // The simulator has no device for RDMA, as most machines; the target and its mark live on.
    const env = { STORAGE_NODE_EXPORT_TRTYPE: "RDMA" };
    await using next = await startAgent(parts, env, { telemetry: seen });
    const cause = /cannot create the RDMA transport: nvmf_create_transport answered/;
    await until("health names it", async () =>
      cause.test((await health(next)).of("target")?.reason ?? ""),
    );
    const cure = /give the machine the device/;
    expect((await health(next)).of("target")?.cure).toMatch(cure);
    const [disk] = [...next.node.agent.rows.disks()];
    await until("it was tried again", () => {
      return (own.engine().gate.counts["nvmf_create_transport"] ?? 0) >= 4;
    });
    for (const { summary } of [
      await explainVolume(next, id),
      await explainDisk(next, disk?.id ?? ""),
    ]) {
      expect(summary).toMatch(cause);
      expect(summary).toMatch(cure);
    }
    expect(await statusOf(next)).toMatch(/CLAIMING/);
    expect(
      next.node.agent.loops().find(({ name }) => name === "export")?.lastError,
    ).toBeUndefined();
  });
});

describe.skipIf(REAL_SOCKET !== undefined)("exports that are being restored", () => {
  it("are counted with their hosts until all are back", async () => {
    await using db = await testDatabase();
    await using own = await inProcessTarget();
    await using seen = anotherTelemetry();
    const parts = { url: db.url, target: own };
    const allowedHostNqns = ["1", "2", "3"].map((last) => `${HOST.slice(0, -1)}${last}`);
    {
      await using first = await startAgent(parts);
      await first.ready();
      await provision(first, { ...small, allowedHostNqns });
    }
    await own.restart();
    const { gate } = own.engine();
    gate.addRule({
      method: "nvmf_subsystem_add_host",
      nth: 1,
      effect: "delay",
      ms: 1_000,
      always: true,
    });
    await using next = await startAgent(parts, {}, { telemetry: seen });
    await until("health says how many are back", async () => {
      const { reason } = (await health(next)).of("restore") ?? {};
      return reason === "0 of 1 exports and 0 of 3 hosts are restored";
    });
    expect((await health(next)).of("restore")).toMatchObject({ ok: false, needed: false });
    expect(await statusOf(next)).toMatch(/^restore +NOT OK .* 0 of 1 exports and 0 of 3 hosts/m);
    await next.ready();
    await until("it is back", async () => (await health(next)).of("restore")?.ok === true);
  });
});
