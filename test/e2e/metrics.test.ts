// The HTTP port as used by Prometheus (/metrics) and a kubelet (/healthz, /readyz).
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readConfig } from "../../src/config.ts";
import { startTelemetry, type Telemetry } from "../../src/telemetry/telemetry.ts";
import { refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase, type TestDatabase } from "../support/database.ts";
import { scrape as scrapeOf, valueOf } from "../support/scrape.ts";
import { REAL_SOCKET, startTarget, type TestTarget } from "../support/target.ts";
import { getLvol, idOf, provision, remove, stateOf } from "../support/volumes.ts";

let telemetry: Telemetry;
let target: TestTarget;
let database: TestDatabase;
let agent: TestAgent;

beforeAll(async () => {
  const { telemetry: config } = readConfig({ DATABASE_URL: "postgresql:///x" });
  telemetry = startTelemetry(config, { nodeId: "node-1", fleet: "test", version: "0" });
  target = await startTarget();
  database = await testDatabase();
  agent = await startAgent({ url: database.url, target }, {}, { telemetry });
  await agent.ready();
});

afterAll(async () => {
  await agent[Symbol.asyncDispose]();
  await telemetry[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
});

async function get(path: string, method = "GET"): Promise<{ code: number; text: string }> {
  const response = await fetch(`http://${agent.node.httpAddress}${path}`, { method });
  return { code: response.status, text: await response.text() };
}

const scrape = () => scrapeOf(agent);

describe("/metrics", () => {
  it("counts the steps and calls of provisioning, and times it until the volumes were observed", async () => {
    const before = await scrape();
    const made = [await provision(agent), await provision(agent), await provision(agent)];
    const after = await scrape();
    const rise = (name: string, labels: Readonly<Record<string, string>> = {}) =>
      valueOf(after, name, labels) - valueOf(before, name, labels);
    expect(
      rise("storagenode_intent_observed_duration_seconds_count", { intent: "provision" }),
    ).toBe(3);
    const create = { loop: "provision", step: "create-lvol", result: "ok" };
    expect(rise("storagenode_step_duration_seconds_count", create)).toBe(3);
    const call = { rpc_method: "bdev_lvol_create", rpc_status_code: "OK" };
    expect(rise("rpc_client_call_duration_seconds_count", call)).toBe(3);
    expect(rise("rpc_server_call_duration_seconds_count", { rpc_status_code: "OK" })).toBe(3);
    expect(rise("storagenode_spdk_dumps_total")).toBe(0);
    expect(rise("storagenode_volumes", { state: "UP" })).toBe(3);
    expect(after.get("storagenode_unconfirmed_hosts")).toBe(0);
    expect(rise("storagenode_capacity_bytes", { kind: "promised" })).toBeGreaterThan(0);
    const disks = [...agent.node.agent.rows.disks()].length;
    expect(valueOf(after, "storagenode_disks", { state: "UP" })).toBe(disks);
    await Promise.all(made.map((lvol) => remove(agent, idOf(lvol))));
    const gone = await scrape();
    expect(
      valueOf(gone, "storagenode_intent_observed_duration_seconds_count", { intent: "delete" }),
    ).toBe(3);
  });

  it("counts the orphans of each kind while they are there", async () => {
    const { lvsUuid = "" } = [...agent.node.agent.rows.disks()][0] ?? {};
    const orphans = async (kind: string) =>
      valueOf(await scrape(), "storagenode_orphans", { kind });
    expect([await orphans("lvol"), await orphans("subsystem")]).toEqual([0, 0]);
    const name = await target.spdk.bdevLvolCreate({
      lvsUuid,
      lvolName: "by-hand",
      sizeBytes: 8n * 1024n * 1024n,
      thin: true,
      clearMethod: "none",
    });
    await until("the orphan is counted", async () => (await orphans("lvol")) === 1);
    await target.spdk.bdevLvolDelete({ lvsUuid, name });
    await until("it is gone", async () => (await orphans("lvol")) === 0);
  });

  it("has the bytes of each kind, and how many disks are low on space", async () => {
    const [disk] = [...agent.node.agent.rows.disks()];
    const { lvsUuid = "" } = disk ?? {};
    const bytes = async (kind: string) =>
      valueOf(await scrape(), "storagenode_capacity_bytes", { kind });
    const level = async (name: string) =>
      valueOf(await scrape(), "storagenode_disk_space", { level: name });
    const disks = [...agent.node.agent.rows.disks()].length;
    expect([await level("OK"), await level("FULL")]).toEqual([disks, 0]);
    const before = await bytes("allocated");
    const sizeBytes = (await target.spdk.getLvstore({ uuid: lvsUuid }))?.freeBytes ?? 0n;
    const name = await target.spdk.bdevLvolCreate({
      lvsUuid,
      lvolName: "by-hand",
      sizeBytes,
      thin: false,
      clearMethod: "none",
    });
    await until("the disk is full", async () => (await level("FULL")) === 1);
    expect(await level("OK")).toBe(disks - 1);
    expect((await bytes("allocated")) - before).toBe(Number(sizeBytes));
    await until("an orphan holds it", async () => (await bytes("orphans")) === Number(sizeBytes));
    await target.spdk.bdevLvolDelete({ lvsUuid, name });
    await until("it is empty again", async () => (await level("OK")) === disks);
    await until("the orphan is gone", async () => (await bytes("orphans")) === 0);
  });

  it("has the status codes of refused calls", async () => {
    await refusal(getLvol(agent, "x"));
    const samples = await scrape();
    const refused = { rpc_status_code: "INVALID_ARGUMENT" };
    expect(valueOf(samples, "rpc_server_call_duration_seconds_count", refused)).toBe(1);
  });

  it("has no label with unbounded values such as volume ids or NQNs", async () => {
    const id = idOf(await provision(agent));
    const { text } = await get("/metrics");
    expect(text).not.toContain(id);
    expect(text).not.toContain("nqn.");
    await Promise.all(Array.from({ length: 20 }, () => provision(agent)));
    // Exclude periodic polls: their series appear at the first poll.
    const series = (scraped: string) =>
      scraped.split("\n").filter((line) => line !== "" && !/^#|notify_get|get_stats/.test(line))
        .length;
    expect(series((await get("/metrics")).text)).toBe(series(text));
  });
});

describe("the probes", () => {
  it.skipIf(REAL_SOCKET !== undefined)(
    "answer alive and ready, with the reason when not ready",
    async () => {
      expect(await get("/healthz")).toEqual({ code: 200, text: "ok\n" });
      expect(await get("/readyz")).toEqual({ code: 200, text: "ready\n" });
      const lvol = await provision(agent);
      await target.kill();
      await until("it is not ready", async () => (await get("/readyz")).code === 503);
      expect((await get("/readyz")).text).toMatch(/^not ready\ntarget: .+\n/);
      expect((await get("/healthz")).code).toBe(200);
      expect(
        valueOf(await scrape(), "storagenode_condition", { condition: "target_connected" }),
      ).toBe(0);
      await target.restart();
      const isUp = async () => stateOf(await getLvol(agent, idOf(lvol))) === "LVOL_STATE_UP";
      await until("the volume is back", isUp);
      await until("it is ready", async () => (await get("/readyz")).code === 200);
    },
  );

  it("refuse unknown paths and methods", async () => {
    expect((await get("/")).code).toBe(404);
    expect((await get("/metrics", "POST")).code).toBe(405);
    expect((await get("/healthz", "HEAD")).code).toBe(200);
  });
});
