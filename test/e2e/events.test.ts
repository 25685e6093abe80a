// Events end to end: what an operator reads the next morning of what was asked, what failed and what lasted.
import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { call, refusal, startAgent, until, type TestAgent } from "../support/agent.ts";
import { crashScenario } from "../support/crash-scenario.ts";
import { testDatabase, type TestDatabase } from "../support/database.ts";
import { eventsOf, reasonsOf } from "../support/events.ts";
import { deleteSnapshot, snapshotIdOf, takeSnapshot } from "../support/snapshots.ts";
import { REAL_SOCKET, startTarget, type TestTarget } from "../support/target.ts";
import { getLvol, GIB, HOST, idOf, provision, remove, stateOf } from "../support/volumes.ts";

const SMALL = { sizeBytes: GIB / 16n };
const OTHER_HOST = `${HOST.slice(0, -1)}2`;
const NODE = "node-1";
/** A state that lasts is one that the agent sees twice. */
const timing = { stateLastsMs: 1 };

const stack = new AsyncDisposableStack();
let database: TestDatabase;
let target: TestTarget;
let agent: TestAgent;

beforeAll(async () => {
  database = stack.use(await testDatabase());
  target = stack.use(await startTarget());
  agent = stack.use(await startAgent({ url: database.url, target, timing }));
  await agent.ready();
});

afterAll(async () => {
  await stack.disposeAsync();
});

const changeHost = (kind: "allowHost" | "revokeHost", lvolId: string) =>
  call(agent.client, agent.client[kind].bind(agent.client), {
    lvolId,
    hostNqn: OTHER_HOST,
    waitTimeout: undefined,
  });

async function oldestFirst(objectId: string, of: TestAgent = agent) {
  return (await eventsOf(of, objectId)).toReversed();
}

/** Those that an intent or a failure is told with, without states. */
async function withoutStates(objectId: string) {
  return (await oldestFirst(objectId)).filter(({ reason }) => reason !== "STATE_CHANGED");
}

describe("every intent", () => {
  it("of a volume is an event that says who wanted what, and what was wanted before", async () => {
    const id = idOf(await provision(agent, { ...SMALL, labels: { app: "db" } }));
    await changeHost("allowHost", id);
    // A repeat wants nothing new.
    await changeHost("allowHost", id);
    await changeHost("revokeHost", id);
    await remove(agent, id, { force: true, reason: "its host is dead" });
    const told = await withoutStates(id);
    expect(told).toMatchObject([
      { reason: "PROVISION_REQUESTED", before: "" },
      {
        reason: "HOST_ALLOWED",
        before: JSON.stringify({ hosts: [HOST] }),
        after: JSON.stringify({ hosts: [HOST, OTHER_HOST] }),
      },
      { reason: "HOST_REVOKED", after: JSON.stringify({ hosts: [HOST] }) },
      {
        reason: "DELETE_REQUESTED",
        before: `{"delete_forced":false}`,
        after: `{"delete_forced":true}`,
        message: "its host is dead",
      },
    ]);
    expect(JSON.parse(told[0]?.after ?? "")).toMatchObject({
      size_bytes: `${SMALL.sizeBytes}`,
      hosts: [HOST],
      labels: { app: "db" },
    });
    for (const { actor, objectKind, objectId } of told) {
      expect(actor).toMatch(/^tcp:127\.0\.0\.1:\d+$/);
      expect({ objectKind, objectId }).toEqual({ objectKind: "lvol", objectId: id });
    }
  });

  it("of a snapshot is an event of the snapshot", async () => {
    const source = idOf(await provision(agent, SMALL));
    const id = snapshotIdOf(await takeSnapshot(agent, source));
    await deleteSnapshot(agent, id);
    expect(reasonsOf(await withoutStates(id))).toEqual(["SNAPSHOT_REQUESTED", "DELETE_REQUESTED"]);
    await remove(agent, source);
  });

  it("of a disk or the node says why it was cordoned", async () => {
    const { client } = agent;
    const page = { pageSize: 0, pageToken: "" };
    const { disks } = await call(client, client.listDisks.bind(client), page);
    const diskId = disks[0]?.meta?.id ?? "";
    for (const id of [diskId, ""]) {
      await call(client, client.cordon.bind(client), { diskId: id, reason: "to be replaced" });
      await call(client, client.cordon.bind(client), { diskId: id, reason: "again" });
      await call(client, client.uncordon.bind(client), { diskId: id });
    }
    const cordons = (events: readonly { reason: string }[]) =>
      events.filter(({ reason }) => reason.endsWith("CORDONED"));
    expect(cordons(await oldestFirst(diskId))).toMatchObject([
      {
        reason: "CORDONED",
        objectKind: "disk",
        message: "to be replaced",
        before: `{"cordoned":false}`,
        after: `{"cordoned":true}`,
      },
      { reason: "UNCORDONED" },
    ]);
    expect(cordons(await oldestFirst(NODE))).toMatchObject([
      { reason: "CORDONED", objectKind: "node", message: "to be replaced" },
      { reason: "UNCORDONED" },
    ]);
  });

  it("that was refused is none", async () => {
    const id = randomUUID();
    await refusal(provision(agent, { sizeBytes: 2n ** 60n }, { id }));
    expect(await eventsOf(agent, id)).toEqual([]);
  });
});

describe("a list of events", () => {
  it("has pages, the newest first, without gaps or repeats", async () => {
    const id = idOf(await provision(agent, SMALL));
    for (let round = 0; round < 6; round += 1) {
      await changeHost("allowHost", id);
      await changeHost("revokeHost", id);
    }
    await until("its state is told, too", async () =>
      reasonsOf(await eventsOf(agent, id)).includes("STATE_CHANGED"),
    );
    const all = await eventsOf(agent, id);
    expect(all).toHaveLength(14);
    expect(await eventsOf(agent, id, 5)).toEqual(all);
    expect(await eventsOf(agent, id, 7)).toEqual(all);
    const ids = all.map(({ id }) => Number(id));
    expect(ids).toEqual(ids.toSorted((a, b) => b - a));
    // The whole node is a list of all.
    const node = await eventsOf(agent, "", 100);
    expect(node.filter(({ objectId }) => objectId === id)).toEqual(all);
  });

  it.each([
    [{ objectId: "x", pageSize: 0, pageToken: "" }, "object_id"],
    [{ objectId: "", pageSize: -1, pageToken: "" }, "page_size"],
    [{ objectId: "", pageSize: 0, pageToken: "!" }, "page_token"],
  ])("refuses %j", async (request, field) => {
    const { client } = agent;
    expect(await refusal(call(client, client.listEvents.bind(client), request))).toMatchObject({
      reason: "INVALID_FIELD",
      fields: [field],
    });
  });

  it("of what never was is empty", async () => {
    expect(await eventsOf(agent, randomUUID())).toEqual([]);
  });
});

describe("a step that fails", () => {
  it.skipIf(REAL_SOCKET !== undefined)(
    "is one event however often it is tried, and another one when it fails otherwise",
    async () => {
      await using control = await target.control();
      const rule = { op: "fail", method: "bdev_lvol_create", always: true };
      await control.ask({ ...rule, code: -5, message: "Input/output error" });
      const id = idOf(await provision(agent, SMALL, { wait: false }));
      const tried = (times: number) => () =>
        (agent.node.agent.rows.lvol(id)?.attempt ?? 0) >= times;
      await until("it was tried three times", tried(3));
      const failed = async () =>
        (await oldestFirst(id)).filter(({ reason }) => reason === "STEP_FAILED");
      const [first] = await failed();
      expect(await failed()).toHaveLength(1);
      expect(first).toMatchObject({ before: "", message: "provision/create-lvol" });
      expect(first?.after).toMatch(/Input\/output error/);
      await control.ask({ op: "clear_rules" });
      await control.ask({ ...rule, code: -5, message: "I/O error" });
      await until("it fails otherwise", async () => (await failed()).length === 2);
      expect((await failed())[1]).toMatchObject({ before: first?.after });
      await control.ask({ op: "clear_rules" });
      await until("it is UP", async () => stateOf(await getLvol(agent, id)) === "LVOL_STATE_UP");
    },
  );
});

describe("a restart of the target", () => {
  it.skipIf(REAL_SOCKET !== undefined)(
    "is one event of the node, and none of its volumes",
    async () => {
      await using scenario = await crashScenario();
      const agent = await scenario.start();
      await agent.ready();
      const made = Array.from({ length: 20 }, () => provision(agent, SMALL));
      const ids = (await Promise.all(made)).map(idOf);
      const before = await eventsOf(agent);
      // Others are being made: what their steps got no answer to is none of their events.
      const more = Array.from({ length: 20 }, () => provision(agent, SMALL));
      await until("they are being made", () => scenario.target.state().subsystems.size > 25);
      await scenario.target.restart();
      ids.push(...(await Promise.all(more)).map(idOf));
      await until("all are UP again", async () => {
        const states = await Promise.all(ids.map(async (id) => stateOf(await getLvol(agent, id))));
        return agent.node.agent.ready() && states.every((state) => state === "LVOL_STATE_UP");
      });
      const since = (await eventsOf(agent)).slice(0, -before.length);
      expect(since.filter(({ objectKind }) => objectKind === "node")).toMatchObject([
        { reason: "TARGET_RESTARTED", objectId: NODE },
      ]);
      // That a volume is UP may be told by now, if the machine is slow; that it was not never is.
      const ofVolumes = since.filter(({ objectKind }) => objectKind === "lvol");
      const others = ofVolumes.filter(({ after }) => after !== "UP");
      expect(new Set(reasonsOf(others))).toEqual(new Set(["PROVISION_REQUESTED"]));
    },
  );

  it.skipIf(REAL_SOCKET !== undefined)(
    "that takes long is told of the node, and nothing is told again by the next agent",
    async () => {
      await using scenario = await crashScenario(timing);
      const agent = await scenario.start();
      await agent.ready();
      const id = idOf(await provision(agent, SMALL));
      const told = async (of: TestAgent) => reasonsOf(await eventsOf(of, id));
      const both = ["STATE_CHANGED", "PROVISION_REQUESTED"];
      await until("it is told to be UP", async () => (await told(agent)).length === 2);
      await scenario.target.kill();
      await until("that the target is away is told", async () => {
        const node = await eventsOf(agent, NODE);
        return node.some(({ after }) => after === "TargetConnected=FALSE");
      });
      expect(await told(agent)).toEqual(both);
      await scenario.killAgent();
      await scenario.target.restart();
      const next = await scenario.start();
      await next.ready();
      const later = idOf(await provision(next, SMALL));
      await until("what came later is told to be UP", async () =>
        (await eventsOf(next, later)).some(({ after }) => after === "UP"),
      );
      expect(await told(next)).toEqual(both);
    },
  );
});

describe("a state that lasts", () => {
  it("is told, with what is wrong", async () => {
    const lvol = await provision(agent, SMALL);
    const id = idOf(lvol);
    const states = async () =>
      (await oldestFirst(id)).filter(({ reason }) => reason === "STATE_CHANGED");
    await until("it is told to be UP", async () => (await states()).length === 1);
    const { nqn = "", lvolUuid: name = "", diskId = "" } = lvol.status ?? {};
    const lvsUuid = agent.node.agent.rows.disk(diskId)?.lvsUuid ?? "";
    await target.spdk.nvmfSubsystemRemoveNs({ nqn, nsid: 1 });
    await target.spdk.bdevLvolDelete({ lvsUuid, name });
    const told = (state: string) => async () =>
      (await states()).some(({ after }) => after === state);
    await until("its loss is told", told("DATA_MISSING"));
    await remove(agent, id);
    await until("its end is told", told("DELETED"));
    const all = await states();
    expect(all[0]).toMatchObject({ before: "CREATING", after: "UP", message: "" });
    const loss = all.find(({ after }) => after === "DATA_MISSING");
    expect(loss?.message).toMatch(/is lost/);
    // Each begins where the one before has ended.
    expect(all.slice(1).map(({ before }) => before)).toEqual(
      all.slice(0, -1).map(({ after }) => after),
    );
  });
});

describe("while the database is away", () => {
  it("events are kept, and ListEvents says so", async () => {
    await using scenario = await crashScenario({ ...timing, leaseTermMs: 3_600_000 });
    const agent = await scenario.start();
    await agent.ready();
    const id = idOf(await provision(agent, SMALL));
    await eventsOf(agent, id);
    await scenario.database().down();
    await scenario.target.restart();
    const node = await refusal(eventsOf(agent, NODE));
    expect(node).toMatchObject({ code: 14, reason: "DATABASE_DOWN" });
    const isUp = async () => stateOf(await getLvol(agent, id)) === "LVOL_STATE_UP";
    await until("the volume is back", isUp);
    await scenario.database().up();
    await agent.ready();
    const reasons = async () => reasonsOf(await eventsOf(agent, NODE));
    await until("the restart is told", async () => (await reasons()).includes("TARGET_RESTARTED"));
    expect((await reasons()).filter((reason) => reason === "TARGET_RESTARTED")).toHaveLength(1);
  });
});
