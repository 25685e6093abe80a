// The log of events over a real database: what is kept, what is dropped, what is never written.
import { pino } from "pino";
import { expect, it } from "vitest";
import { EVENT_TEXT_CHARS, EVENTS_QUEUED } from "../../src/limits.ts";
import { eventOf, type Event } from "../../src/model/event.ts";
import { isDatabaseDown, openDatabase } from "../../src/store/database.ts";
import { EventLog } from "../../src/store/event-log.ts";
import { Fence } from "../../src/store/fence.ts";
import { acquireLease } from "../../src/store/lease.ts";
import { registerNode } from "../../src/store/statements.ts";
import { testDatabase } from "../support/database.ts";
import { DatabaseProxy } from "../support/database-proxy.ts";
import { FLEET, NODE, PREFIX } from "../support/model.ts";

const log = pino({ level: "silent" });
const DAY_MS = 86_400_000;

async function openLog(url: string) {
  const database = openDatabase({ url, log });
  await database.transaction((client) =>
    registerNode(client, { nodeId: NODE, fleet: FLEET, nqnPrefix: PREFIX }),
  );
  const fence = new Fence();
  const lead = async (lock = "test") => {
    const claim = { nodeId: NODE, holder: lock, lock: "test", termMs: 60_000, atLeast: 0n };
    const taken = await acquireLease(database.pool, claim);
    if ("heldBy" in taken) throw new Error(taken.heldBy);
    return taken.epoch;
  };
  fence.setLease(await lead(), Number.POSITIVE_INFINITY);
  const retentionMs = 7 * DAY_MS;
  const events = new EventLog({ database, fence, nodeId: NODE, retentionMs, log });
  return {
    events,
    lead,
    [Symbol.asyncDispose]: async () => {
      await events[Symbol.asyncDispose]();
      await database[Symbol.asyncDispose]();
    },
  };
}

const about = (objectId: string, more: Partial<Event> = {}) =>
  eventOf({ objectKind: "lvol", objectId, reason: "STATE_CHANGED", ...more });
const everything = { objectId: undefined, before: undefined, limit: 100_000 };

it("lists events in the order in which they were told, the newest first", async () => {
  await using database = await testDatabase();
  await using opened = await openLog(database.url);
  const { events } = opened;
  const time = new Date();
  for (let index = 0; index < 2_500; index += 1) {
    events.add(() => [about(`${index % 2}`, { after: `${index}`, time })]);
  }
  const all = await events.list(everything);
  expect(all.map(({ after }) => Number(after))).toEqual(
    Array.from({ length: 2_500 }, (_, index) => 2_499 - index),
  );
  const one = await events.list({ ...everything, objectId: "1", limit: 3 });
  expect(one.map(({ after }) => after)).toEqual(["2499", "2497", "2495"]);
  const next = await events.list({ objectId: "1", limit: 2, before: one[2]?.id });
  expect(next.map(({ after }) => after)).toEqual(["2493", "2491"]);
  expect(all[0]).toMatchObject({ objectKind: "lvol", reason: "STATE_CHANGED", time });
});

it("takes texts of any origin, and cuts off the rest of a long one", async () => {
  await using database = await testDatabase();
  await using opened = await openLog(database.url);
  const { events } = opened;
  const after = `a\0b\ud800c'"\\`;
  events.add(() => [about("1", { after, message: "x".repeat(100_000) })]);
  const [told] = await events.list(everything);
  expect(told?.after).toBe(`ab\ufffdc'"\\`);
  expect(told?.message).toHaveLength(EVENT_TEXT_CHARS);
});

it("keeps events while the database is away, up to a limit, and says how many it dropped", async () => {
  await using database = await testDatabase();
  await using proxy = await DatabaseProxy.open(database.url);
  await using opened = await openLog(proxy.url);
  const { events } = opened;
  await proxy.down();
  for (let index = 0; index < EVENTS_QUEUED + 7; index += 1) {
    events.add(() => [about("1", { after: `${index}` })]);
  }
  await expect(events.flush()).rejects.toSatisfy(isDatabaseDown);
  expect(events.queued).toBe(EVENTS_QUEUED);
  await expect(events.list(everything)).rejects.toSatisfy(isDatabaseDown);
  await proxy.up();
  const all = await events.list(everything);
  expect(events.queued).toBe(0);
  expect(all.filter(({ reason }) => reason === "STATE_CHANGED")).toHaveLength(EVENTS_QUEUED);
  expect(all.filter(({ reason }) => reason === "EVENTS_DROPPED")).toMatchObject([
    { objectKind: "node", objectId: NODE, after: "7" },
  ]);
});

it("writes nothing once another agent leads the node", async () => {
  await using database = await testDatabase();
  await using opened = await openLog(database.url);
  const { events, lead } = opened;
  events.add(() => [about("1")]);
  await events.flush();
  await lead("another");
  events.add(() => [about("2")]);
  await events.flush();
  expect((await events.list(everything)).map(({ objectId }) => objectId)).toEqual(["1"]);
});

it("deletes what is older than it keeps, and nothing else", async () => {
  await using database = await testDatabase();
  await using opened = await openLog(database.url);
  const { events } = opened;
  const old = new Date(Date.now() - 7 * DAY_MS - 1_000);
  const recent = new Date(Date.now() - 7 * DAY_MS + 60_000);
  for (let index = 0; index < 2_500; index += 1) events.add(() => [about("1", { time: old })]);
  for (const time of [recent, new Date()]) events.add(() => [about("2", { time })]);
  await events.flush();
  expect(await events.prune()).toBe(2_500);
  expect((await events.list(everything)).map(({ objectId }) => objectId)).toEqual(["2", "2"]);
  expect(await events.prune()).toBe(0);
});

it("writes what is left when the agent stops", async () => {
  await using database = await testDatabase();
  {
    await using opened = await openLog(database.url);
    opened.events.add(() => [about("1")]);
  }
  expect(await database.query("select object_id from event")).toEqual([{ object_id: "1" }]);
});
