// Calls that end before the volume they wait for is UP: the caller cancels, its deadline passes, or
// the agent stops. The committed intent stays in each case.
import { credentials, Metadata, status } from "@grpc/grpc-js";
import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import { HealthClient, type HealthCheckResponse } from "../../src/gen/grpc/health/v1/health.ts";
import { call, refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import { DatabaseProxy } from "../support/database-proxy.ts";
import { testDatabase } from "../support/database.ts";
import { REAL_SOCKET, startTarget, type TestTarget } from "../support/target.ts";
import { getLvol, idOf, lvolSpec, provision, stateOf, WAIT } from "../support/volumes.ts";

const SERVICE = "storagenode.v1.StorageNode";

type Scenario = AsyncDisposable & {
  readonly agent: TestAgent;
  readonly target: TestTarget;
  readonly database: DatabaseProxy;
};

/** A ready agent that waits only 200 ms for steps in flight when it stops. */
async function readyAgent(): Promise<Scenario> {
  await using stack = new AsyncDisposableStack();
  const { url } = stack.use(await testDatabase());
  const database = stack.use(await DatabaseProxy.open(url));
  const target = stack.use(await startTarget());
  const timing = { stopMs: 200 };
  const agent = stack.use(await startAgent({ url: database.url, target, timing }));
  await agent.ready();
  const owned = stack.move();
  return { agent, target, database, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

describe.skipIf(REAL_SOCKET !== undefined)("a call that waits for a volume", () => {
  const request = () => ({
    id: randomUUID(),
    spec: lvolSpec(),
    waitTimeout: WAIT,
    validateOnly: false,
  });

  it("is cancelled or its deadline passes: the volume is created all the same", async () => {
    await using scenario = await readyAgent();
    const { agent, target } = scenario;
    await using control = await target.control();
    const { stopped } = await control.stopAt({ when: "before", method: "bdev_lvol_create" });
    const [cancelled, late] = [request(), request()];
    const { client } = agent;
    const ended = new Promise<number | undefined>((resolve) => {
      const asked = client.provisionLvol(cancelled, new Metadata(), {}, (error) => {
        resolve(error?.code);
      });
      void stopped.then(() => asked.cancel());
    });
    expect(await ended).toBe(status.CANCELLED);
    const deadline = Date.now() + 300;
    const passed = refusal(call(client, client.provisionLvol.bind(client), late, { deadline }));
    expect((await passed).code).toBe(status.DEADLINE_EXCEEDED);
    const both = [cancelled.id, late.id];
    const { rows } = agent.node.agent;
    await until("both are committed", () => both.every((id) => rows.lvol(id) !== undefined));
    for (const id of both) expect(stateOf(await getLvol(agent, id))).toBe("LVOL_STATE_CREATING");
    await control.resume();
    for (const id of both) {
      const again = await provision(agent, {}, { id });
      expect({ id: idOf(again), state: stateOf(again) }).toEqual({ id, state: "LVOL_STATE_UP" });
    }
    expect(await target.spdk.bdevLvolGetLvols()).toHaveLength(2);
  });

  it("is answered with the current row when its wait expires, and when the agent stops", async () => {
    await using scenario = await readyAgent();
    const { agent, target } = scenario;
    await using control = await target.control();
    const { stopped } = await control.stopAt({ when: "before", method: "bdev_lvol_create" });
    const { client } = agent;
    const waitTimeout = { seconds: 0n, nanos: 50_000_000 };
    const brief = await call(client, client.provisionLvol.bind(client), {
      ...request(),
      waitTimeout,
    });
    expect(brief.lvol?.status?.state).toBe("LVOL_STATE_CREATING");
    const long = request();
    const answer = call(client, client.provisionLvol.bind(client), long);
    await stopped;
    await until("the intent is committed", () => {
      return agent.node.agent.rows.lvol(long.id) !== undefined;
    });
    await agent.node[Symbol.asyncDispose]();
    expect((await answer).lvol?.status?.state).toBe("LVOL_STATE_CREATING");
  });
});

describe.skipIf(REAL_SOCKET !== undefined)("a watcher of grpc.health.v1", () => {
  it("receives each change of readiness, the last one when the agent stops", async () => {
    await using scenario = await readyAgent();
    const { agent, database } = scenario;
    const client = new HealthClient(agent.address, credentials.createInsecure());
    const received: string[] = [];
    const stream = client.watch({ service: SERVICE });
    stream.on("data", ({ status: now }: HealthCheckResponse) => received.push(now));
    const ended = new Promise((_, reject) => stream.once("error", reject));
    const refused = refusal(ended);
    const expectStatuses = async (...statuses: readonly string[]) => {
      const what = `it received ${statuses.join(", ")}`;
      await until(what, () => received.length >= statuses.length);
      expect(received).toEqual(statuses);
    };
    await expectStatuses("SERVING");
    await database.down();
    // This request makes the agent notice the outage before the next renewal of its lease.
    expect(await refusal(provision(agent))).toMatchObject({ reason: "DATABASE_DOWN" });
    await expectStatuses("SERVING", "NOT_SERVING");
    await database.up();
    await expectStatuses("SERVING", "NOT_SERVING", "SERVING");
    await agent.node[Symbol.asyncDispose]();
    expect(await refused).toMatchObject({
      code: status.UNAVAILABLE,
      reason: "NOT_LEASE_HOLDER",
    });
    expect(received).toEqual(["SERVING", "NOT_SERVING", "SERVING", "NOT_SERVING"]);
    client.close();
  });
});
