// Each way in which a node can be ill, as an operator sees it: readiness, GetHealth, `status`, `explain`.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readConfig } from "../../src/config.ts";
import { startTelemetry, type Telemetry } from "../../src/telemetry/telemetry.ts";
import { call, startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase, type TestDatabase } from "../support/database.ts";
import { explainDisk, explainVolume, storageNode } from "../support/explain.ts";
import { REAL_SOCKET, startTarget, type TestTarget } from "../support/target.ts";
import { getLvol, idOf, provision, stateOf } from "../support/volumes.ts";

const SILENCE_S = "1";

let telemetry: Telemetry;
let target: TestTarget;
let database: TestDatabase;
let agent: TestAgent;
let volume: string;

beforeAll(async () => {
  const { telemetry: config } = readConfig({ DATABASE_URL: "postgresql:///x" });
  telemetry = startTelemetry(config, { nodeId: "node-1", fleet: "test", version: "0" });
  target = await startTarget({ disks: 1 });
  database = await testDatabase();
  const env = { STORAGE_NODE_TARGET_SILENCE: SILENCE_S };
  agent = await startAgent({ url: database.url, target }, env, { telemetry });
  await agent.ready();
  volume = idOf(await provision(agent));
});

afterAll(async () => {
  await agent[Symbol.asyncDispose]();
  await telemetry[Symbol.asyncDispose]();
  await target[Symbol.asyncDispose]();
  await database[Symbol.asyncDispose]();
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
      expect(await statusOf(agent)).toMatch(/^target +NOT OK +for \d+ s +takes requests/m);
    } finally {
      process.kill(pid, "SIGCONT");
    }
    await agent.ready();
    expect(await exportOf(agent)).toEqual({ ready: true, reason: "READY" });
    expect(stateOf(await getLvol(agent, volume))).toBe("LVOL_STATE_UP");
  });
});
