// Watch end to end: a client that knows only what it was sent knows what is there, whatever happens in
// between. Counts and states, never times.
import { randomUUID } from "node:crypto";
import { isDeepStrictEqual } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WATCH_CHANGES } from "../../src/limits.ts";
import { call, startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { crashScenario } from "../support/crash-scenario.ts";
import { CAN_KILL, startTarget, type TestTarget } from "../support/target.ts";
import { GIB, HOST, idOf, lvolSpec, provision, remove } from "../support/volumes.ts";
import { deleteSnapshot, getSnapshot, snapshotIdOf, takeSnapshot } from "../support/snapshots.ts";
import { Knowledge, Watcher } from "../support/watcher.ts";

const OUT_OF_RANGE = 11;
const UNAVAILABLE = 14;
const UP = "LVOL_STATE_UP";
const OTHER_HOST = `${HOST.slice(0, -1)}2`;
const SMALL = { sizeBytes: GIB / 16n };

const stack = new AsyncDisposableStack();
let url: string;
let target: TestTarget;
let agent: TestAgent;

beforeAll(async () => {
  const database = stack.use(await testDatabase());
  ({ url } = database);
  target = stack.use(await startTarget());
  agent = await startAgent({ url, target });
  await agent.ready();
});

afterAll(async () => {
  await agent[Symbol.asyncDispose]();
  await stack.disposeAsync();
});

/** What lists say of everything that is there. */
async function present(of: TestAgent = agent): Promise<ReadonlyMap<string, string>> {
  const { client } = of;
  const page = { pageSize: 500, pageToken: "" };
  const { disks } = await call(client, client.listDisks.bind(client), page);
  const all = { ...page, diskId: "", showDeleted: false };
  const { lvols } = await call(client, client.listLvols.bind(client), all);
  const ofAll = { ...page, sourceLvolId: "", showDeleted: false };
  const { snapshots } = await call(client, client.listSnapshots.bind(client), ofAll);
  return new Map(
    [...disks, ...lvols, ...snapshots].map(({ meta, status }) => [
      meta?.id ?? "",
      status?.state ?? "",
    ]),
  );
}

async function knowsAll(watcher: Watcher, of: TestAgent = agent): Promise<void> {
  let last: ReadonlyMap<string, string> = new Map();
  await until("the watcher knows what is there", async () => {
    last = await present(of);
    return sameStates(watcher.knows.states, last);
  }).catch(() => expect(watcher.knows.states).toEqual(last));
}

function sameStates(a: ReadonlyMap<string, string>, b: ReadonlyMap<string, string>): boolean {
  return a.size === b.size && [...a].every(([id, state]) => b.get(id) === state);
}

const revisionsOf = (watcher: Watcher) =>
  watcher.messages.map(({ revision }) => revision).filter((revision) => revision > 0n);

describe("a watcher", () => {
  it("is sent what is there, then that it is synced, then each change", async () => {
    const old = idOf(await provision(agent, SMALL));
    using watcher = new Watcher(agent);
    await watcher.synced();
    expect(watcher.subjects.at(-1)).toBe("synced");
    expect(watcher.knows.states).toEqual(await present());
    expect(watcher.knows.states.get(old)).toBe(UP);
    const id = idOf(await provision(agent, SMALL));
    await watcher.until("the new volume is UP", () => watcher.knows.states.get(id) === UP);
    await remove(agent, id);
    await watcher.until("it is gone", () => !watcher.knows.states.has(id));
    const last = watcher.messages[watcher.subjects.lastIndexOf(id)];
    expect(last?.change).toMatchObject({ $case: "lvol", value: { meta: { id } } });
    await knowsAll(watcher);
    const revisions = revisionsOf(watcher);
    expect(revisions).toEqual(revisions.toSorted((a, b) => Number(a - b)));
  });

  it("is sent each change once, the same bytes as every other watcher", async () => {
    const watchers = Array.from({ length: 20 }, () => new Watcher(agent));
    await Promise.all(watchers.map((watcher) => watcher.synced()));
    const heard = watchers.map(({ messages }) => messages.length);
    const id = idOf(await provision(agent, SMALL));
    await Promise.all(watchers.map((watcher) => knowsAll(watcher)));
    await remove(agent, id);
    await Promise.all(watchers.map((watcher) => knowsAll(watcher)));
    const changes = watchers.map(({ messages }, index) => messages.slice(heard[index]));
    const length = Math.min(...changes.map((all) => all.length));
    expect(length).toBeGreaterThan(3);
    for (const mine of changes) expect(mine.slice(0, length)).toEqual(changes[0]?.slice(0, length));
    for (const watcher of watchers) watcher[Symbol.dispose]();
  });

  it("may resume from any message: what it knew then and is sent now is what is there", async () => {
    const burst = async () => {
      const made = Array.from({ length: 20 }, () => provision(agent, SMALL));
      const ids = (await Promise.all(made)).map(idOf);
      await Promise.all(ids.slice(10).map((id) => remove(agent, id)));
    };
    using watcher = new Watcher(agent);
    await watcher.synced();
    await burst();
    await knowsAll(watcher);
    const known = new Knowledge();
    for (const [index, message] of watcher.messages.entries()) {
      known.learn(message);
      if (known.revision === 0n || index % 7 !== 0) continue;
      const knows = known.copy();
      using resumed = new Watcher(agent, { fromRevision: knows.revision, knows });
      await resumed.synced();
      expect(resumed.knows.states).toEqual(watcher.knows.states);
    }
  });

  it("is sent nothing that has not changed since the revision that it resumes from", async () => {
    using watcher = new Watcher(agent, { bookmarkMs: 100 });
    // While nobody watches, what is observed and has not changed is not told from what has.
    await watcher.synced();
    const untouched = idOf(await provision(agent, SMALL));
    const touched = idOf(await provision(agent, SMALL));
    const deleted = idOf(await provision(agent, SMALL));
    const last = (subject: string) => watcher.subjects.lastIndexOf(subject);
    await watcher.until("a bookmark", () => last(deleted) >= 0 && last("bookmark") > last(deleted));
    const { revision } = watcher.knows;
    const { client } = agent;
    const host = { lvolId: touched, hostNqn: OTHER_HOST, waitTimeout: undefined };
    await call(client, client.allowHost.bind(client), host);
    await remove(agent, deleted);
    using resumed = new Watcher(agent, { fromRevision: revision, knows: watcher.knows.copy() });
    await resumed.synced();
    expect(resumed.subjects).toContain(touched);
    expect(resumed.subjects).toContain(deleted);
    expect(resumed.subjects).not.toContain(untouched);
    await knowsAll(resumed);
  });

  it("learns of a snapshot, of the clones that it gets, and of its end", async () => {
    const source = idOf(await provision(agent, SMALL));
    using watcher = new Watcher(agent);
    await watcher.synced();
    const taken = await takeSnapshot(agent, source);
    const id = snapshotIdOf(taken);
    const clone = idOf(await provision(agent, { ...SMALL, sourceSnapshotId: id }));
    const last = () => watcher.messages[watcher.subjects.lastIndexOf(id)]?.change;
    const shown = async () => (await getSnapshot(agent, id)).status;
    await until("it is shown as it is read", async () => {
      const change = last();
      const said = change?.$case === "snapshot" ? change.value.status : undefined;
      return isDeepStrictEqual(said, await shown());
    });
    expect((await shown())?.blockingLvolIds).toContain(clone);
    await knowsAll(watcher);
    await remove(agent, clone);
    await deleteSnapshot(agent, id);
    await watcher.until("the snapshot is gone", () => !watcher.knows.states.has(id));
    await remove(agent, source);
    await knowsAll(watcher);
  });

  it("gets bookmarks that go on with commits that change no object", async () => {
    using watcher = new Watcher(agent, { bookmarkMs: 100 });
    await watcher.synced();
    const { revision } = watcher.knows;
    const { client } = agent;
    await call(client, client.cordon.bind(client), { diskId: "", reason: "test" });
    await call(client, client.uncordon.bind(client), { diskId: "" });
    const ahead = () =>
      watcher.messages.some(
        (message) => message.change?.$case === "bookmark" && message.revision >= revision + 2n,
      );
    await watcher.until("a bookmark of a later revision", ahead);
    using other = new Watcher(agent, { fromRevision: watcher.knows.revision });
    await other.synced();
    expect(other.knows.revision).toBeGreaterThanOrEqual(revision + 2n);
  });

  it.each([99, -1_000, 600_001])("may not ask for a bookmark every %i ms", async (bookmarkMs) => {
    using watcher = new Watcher(agent, { bookmarkMs });
    expect(await watcher.ended).toMatchObject({
      reason: "INVALID_FIELD",
      fields: ["bookmark_interval"],
    });
  });

  it("is told to begin anew if it resumes from a revision that is still to come", async () => {
    using watcher = new Watcher(agent, { fromRevision: 1_000_000n });
    expect(await watcher.ended).toMatchObject({ code: OUT_OF_RANGE, reason: "REVISION_EXPIRED" });
  });

  it("that does not read is told so once it is too far behind, and can resume", async () => {
    using watcher = new Watcher(agent);
    await watcher.synced();
    watcher.pause();
    const { client } = agent;
    using other = new Watcher(agent);
    await other.synced();
    const ids = (await Promise.all(Array.from({ length: 100 }, () => provision(agent, SMALL)))).map(
      idOf,
    );
    const toggle = (method: "allowHost" | "revokeHost") =>
      Promise.all(
        ids.map((lvolId) => {
          const request = { lvolId, hostNqn: OTHER_HOST, waitTimeout: undefined };
          return call(client, client[method].bind(client), request);
        }),
      );
    // The other one reads: its stream goes on while more changes are made than are kept, and more than fit
    // between server and client.
    while (other.messages.length < 2 * WATCH_CHANGES) {
      await toggle("allowHost");
      await toggle("revokeHost");
    }
    await knowsAll(other);
    watcher.resume();
    expect(await watcher.ended).toMatchObject({ code: 8, reason: "READER_TOO_SLOW" });
    expect(watcher.messages.length).toBeLessThan(other.messages.length);
    const { revision: fromRevision } = watcher.knows;
    using resumed = new Watcher(agent, { fromRevision, knows: watcher.knows.copy() });
    await resumed.synced();
    await knowsAll(resumed);
    await Promise.all(ids.map((id) => remove(agent, id)));
  }, 120_000);

  it("learns what somebody else has done to a volume on the target", async () => {
    const lvol = await provision(agent, SMALL);
    const id = idOf(lvol);
    using watcher = new Watcher(agent);
    await watcher.synced();
    const { nqn = "", lvolUuid: name = "", diskId = "" } = lvol.status ?? {};
    const lvsUuid = agent.node.agent.rows.disk(diskId)?.lvsUuid ?? "";
    await target.spdk.nvmfSubsystemRemoveNs({ nqn, nsid: 1 });
    await target.spdk.bdevLvolDelete({ lvsUuid, name });
    const isMissing = () => watcher.knows.states.get(id) === "LVOL_STATE_DATA_MISSING";
    await watcher.until("its data is missing", isMissing);
    await remove(agent, id);
    await watcher.until("it is gone", () => !watcher.knows.states.has(id));
    expect(watcher.knows.states).toEqual(await present());
  });

  it.runIf(CAN_KILL)("learns that the target is gone, and that it is back", async () => {
    await Promise.all(Array.from({ length: 4 }, () => provision(agent, SMALL)));
    using watcher = new Watcher(agent);
    await watcher.synced();
    const states = (state: string) =>
      [...watcher.knows.states.values()].filter((one) => one === state).length;
    const up = states(UP);
    expect(up).toBeGreaterThan(3);
    // Away at that moment: it comes back to what it does not know.
    using before = new Watcher(agent);
    await before.synced();
    const left = before.knows.copy();
    before[Symbol.dispose]();
    await target.restart();
    await watcher.until("all are DEGRADED", () => states("LVOL_STATE_DEGRADED") === up);
    const degraded = watcher.knows.copy();
    await watcher.until("all are UP", () => states(UP) === up);
    for (const knows of [left, degraded]) {
      using resumed = new Watcher(agent, { fromRevision: knows.revision, knows });
      await resumed.synced();
      await knowsAll(resumed);
    }
  });

  it("is told to ask again when the agent stops, and what the next one does not know", async () => {
    using watcher = new Watcher(agent);
    await watcher.synced();
    const { revision } = watcher.knows;
    const id = randomUUID();
    const request = { id, spec: lvolSpec(SMALL), waitTimeout: undefined, validateOnly: false };
    await call(agent.client, agent.client.provisionLvol.bind(agent.client), request);
    await agent[Symbol.asyncDispose]();
    expect(await watcher.ended).toMatchObject({ code: UNAVAILABLE, reason: "NOT_LEASE_HOLDER" });
    agent = await startAgent({ url, target });
    await agent.ready();
    using resumed = new Watcher(agent, { fromRevision: revision });
    expect(await resumed.ended).toMatchObject({ code: OUT_OF_RANGE, reason: "REVISION_EXPIRED" });
    using anew = new Watcher(agent);
    await anew.synced();
    await knowsAll(anew);
  });
});

describe("while the database is away", () => {
  it("a watcher stays, learns what the target shows, and goes on with the next commit", async () => {
    await using scenario = await crashScenario({ leaseTermMs: 3_600_000 });
    const agent = await scenario.start();
    await agent.ready();
    const id = idOf(await provision(agent, SMALL));
    using watcher = new Watcher(agent);
    await watcher.synced();
    await scenario.database().down();
    await scenario.target.kill();
    const isIn = (state: string) => () => watcher.knows.states.get(id) === state;
    await watcher.until("it is DEGRADED", isIn("LVOL_STATE_DEGRADED"));
    await scenario.target.restart();
    await watcher.until("it is UP", isIn(UP));
    await scenario.database().up();
    await agent.ready();
    await remove(agent, id);
    await watcher.until("it is deleted", () => !watcher.knows.states.has(id));
    expect(sameStates(watcher.knows.states, await present(agent))).toBe(true);
  });

  it("an agent that starts shows its local copy, from which nobody can resume", async () => {
    await using scenario = await crashScenario({ leaseTermMs: 3_600_000 });
    const first = await scenario.start();
    await first.ready();
    const id = idOf(await provision(first, SMALL));
    await scenario.database().down();
    await scenario.killAgent();
    const agent = await scenario.start({ databaseAway: true });
    await until("it shows its copy", async () =>
      (await present(agent).catch(() => new Map())).has(id),
    );
    using watcher = new Watcher(agent, { bookmarkMs: 100 });
    await watcher.until("a bookmark", () => watcher.subjects.includes("bookmark"));
    expect(watcher.knows.states.has(id)).toBe(true);
    expect(revisionsOf(watcher)).toEqual([]);
    using resumed = new Watcher(agent, { fromRevision: 1n });
    expect(await resumed.ended).toMatchObject({ code: OUT_OF_RANGE });
    await scenario.database().up();
    await agent.ready();
    await watcher.until("a revision", () => watcher.knows.revision > 0n);
    await knowsAll(watcher, agent);
  });
});
