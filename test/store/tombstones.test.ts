// Deleted volumes: their rows are readable for a while, then compacted; what they cost, and who reads them.
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { COMMIT_TOMBSTONES, TOMBSTONES } from "../../src/limits.ts";
import { uuidV5 } from "../../src/model/identity.ts";
import { startAgent, until } from "../support/agent.ts";
import { testDatabase, type TestDatabase } from "../support/database.ts";
import { DISK, NODE, VOLUME } from "../support/model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { openWriter, provision, rowOf } from "../support/writer.ts";

/** Rows of volumes that were deleted one second after the other, the last one so many hours ago. */
async function insertDeleted(db: TestDatabase, count: number, hoursAgo: number): Promise<void> {
  await db.query(`
    create temporary table made on commit drop as
      select gen_random_uuid() as id, n from generate_series(1, ${count}) n;
    insert into object_id (id, node, kind) select id, number, 'l' from made, node
      where node_id = '${NODE}';
    insert into lvol (id, node_id, disk_id, family_root, request, size_bytes, promised_bytes, thin, nqn, serial_number,
        lvol_uuid, revision, delete_requested_time, delete_time)
      select id, '${NODE}', '${DISK}', id, '{"sizeBytes": "1", "thin": true, "hosts": [],
        "allowAnyHost": false}', 1, 1, true, id::text, 'x', gen_random_uuid(), 0, now(),
        now() - interval '${hoursAgo} hours' - (${count} - n) * interval '1 second' from made;
    update node set revision = revision + 1 where node_id = '${NODE}';`);
}

async function counts(db: TestDatabase): Promise<unknown> {
  const [row] = await db.query(`select
    (select count(*)::integer from lvol where delete_time is not null) as readable,
    (select count(*)::integer from tombstone) as compacted,
    (select revision::integer from node) as revision`);
  return row;
}

describe("rows of deleted volumes", () => {
  it("are kept for the newest ones only, and compacted in few transactions", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, rows } = opened;
    await insertDeleted(db, TOMBSTONES + 2 * COMMIT_TOMBSTONES + 5, 1);
    const newest = `select id from lvol order by delete_time desc limit ${TOMBSTONES}`;
    const kept = await db.query(newest);
    const revision = Number(rows.node?.revision ?? 0n) + 1;
    writer.refresh();
    const expected = {
      readable: TOMBSTONES,
      compacted: 2 * COMMIT_TOMBSTONES + 5,
      revision: revision + 3,
    };
    await until("the rest is compacted", async () => {
      return JSON.stringify(await counts(db)) === JSON.stringify(expected);
    });
    expect(await db.query(newest)).toEqual(kept);
    expect([...rows.lvols()]).toHaveLength(TOMBSTONES);
    expect(await db.query("select id from object_id")).toHaveLength(
      expected.compacted + TOMBSTONES,
    );
  });

  it("are kept for a day, but for one whose lvol is being deleted again", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, rows } = opened;
    await insertDeleted(db, 10, 23);
    await insertDeleted(db, 5, 25);
    await db.query(`update lvol set pending_op = '{"op": "delete", "run": "r", "epoch": "1",
      "since": "2026-11-01T00:00:00.000Z", "failed": false}'
      where delete_time = (select min(delete_time) from lvol)`);
    writer.refresh();
    await until("old ones are compacted", () => [...rows.lvols()].length === 11);
    expect(await counts(db)).toMatchObject({ readable: 11, compacted: 4 });
  });

  it("that are compacted leave their id retired, and a repeated Delete done", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, rows } = opened;
    const row = rowOf(await writer.mutate(provision(1)));
    const deletion = { kind: "delete", id: row.id, force: false, reason: "" } as const;
    const caller = { actor: "test", traceparent: undefined };
    await writer.mutate({ ...deletion, ...caller });
    const deleteTime = new Date(Date.now() - 25 * 3_600_000);
    const deleted = rows.lvol(row.id) ?? row;
    expect(await writer.recordLvol(deleted, { deleteTime, exported: false })).toBe(true);
    await until("its row is compacted", () => rows.lvol(row.id) === undefined);
    expect(await counts(db)).toMatchObject({ readable: 0, compacted: 1 });
    await expect(writer.mutate(provision(1))).rejects.toMatchObject({ reason: "ID_RETIRED" });
    expect(await writer.mutate({ ...deletion, ...caller })).toMatchObject({ row: undefined });
    expect(rows.disk(DISK)).toMatchObject({ promisedBytes: 0n, lvolCount: 0 });
  });

  it("cause no write on a node on which nothing else happens", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    await insertDeleted(db, 10, 23);
    const before = await counts(db);
    opened.writer.refresh();
    await until("they are read", () => [...opened.rows.lvols()].length === 10);
    await opened.writer[Symbol.asyncDispose]();
    expect(await counts(db)).toEqual(before);
  });

  it("are found by their lvol, or by name if none was ever observed, and on their disk only", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, rows } = opened;
    const [id, unseen, uuid, other] = ["1", "2", "3", "4"].map((name) => uuidV5(VOLUME, name));
    if (id === undefined || unseen === undefined || uuid === undefined || other === undefined)
      return;
    await db.query(`insert into object_id (id, node, kind)
      select id, number, 'l' from node, unnest('{${id},${unseen}}'::uuid[]) id`);
    await db.query(`insert into tombstone values ('${id}', '${DISK}', '${uuid}'),
      ('${unseen}', '${DISK}', null)`);
    const find = (lvol: string, nameAsId: string | undefined, diskId = DISK) =>
      writer.findTombstones([{ uuid: lvol, nameAsId, diskId }]);
    expect(await find(other, id)).toEqual([]);
    expect(await find(uuid, undefined, other)).toEqual([]);
    expect(await find(unseen, undefined)).toEqual([]);
    const found = [...(await find(uuid, other)), ...(await find(other, unseen))];
    expect(found).toEqual([
      { id, diskId: DISK, lvolUuid: uuid },
      { id: unseen, diskId: DISK, lvolUuid: undefined },
    ]);
    await writer.restoreTombstones(found);
    const deleted = { deleteTime: expect.any(Date), unexportedTime: expect.any(Date) };
    expect(rows.lvol(id)).toMatchObject({ ...deleted, lvolUuid: uuid });
    expect(rows.lvol(unseen)).toMatchObject({ ...deleted, lvolUuid: undefined });
    expect(await counts(db)).toMatchObject({ readable: 2, compacted: 0 });
    expect(rows.disk(DISK)).toMatchObject({ promisedBytes: 0n, lvolCount: 0 });
    // Twice is once.
    await writer.restoreTombstones(found);
    expect(await counts(db)).toMatchObject({ readable: 2, compacted: 0 });
    await using second = await openWriter(db.url);
    expect(second.rows.lvol(id)).toEqual(rows.lvol(id));
  });

  it("go with their disk", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    await insertDeleted(db, 10, 25);
    opened.writer.refresh();
    await until("they are compacted", async () => {
      return (await db.query("select from tombstone")).length === 10;
    });
    await db.query("delete from disk");
    expect(await counts(db)).toMatchObject({ compacted: 0 });
  });
});

describe("a hundred thousand deleted volumes", () => {
  it("cost less than 20 MiB, and an agent that starts reads none of them", async () => {
    await using db = await testDatabase();
    {
      await using opened = await openWriter(db.url);
      for (let batch = 0; batch < 10; batch += 1) {
        await insertDeleted(db, COMMIT_TOMBSTONES, 25);
        opened.writer.refresh();
        await until("the batch is compacted", async () => {
          const [row] = await db.query("select exists (select from lvol) as left");
          return JSON.stringify(row) === '{"left":false}';
        });
      }
    }
    // As compaction wrote them, for the sake of time.
    for (let batch = 10; batch < 100; batch += 1) {
      await db.query(`
        with made as (select gen_random_uuid() as id from generate_series(1, ${COMMIT_TOMBSTONES})),
          taken as (insert into object_id (id, node, kind) select id, number, 'l' from made, node)
        insert into tombstone (id, disk_id, lvol_uuid) select id, '${DISK}', gen_random_uuid() from made`);
    }
    const [size] = await db.query(`select count(*)::integer as count,
      pg_total_relation_size('tombstone') + pg_total_relation_size('object_id') < 20 * 1024 * 1024
        as small from tombstone`);
    expect(size).toEqual({ count: 100_000, small: true });
    const read = `select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::integer as read
      from pg_stat_user_tables where relname in ('tombstone', 'object_id')`;
    const counted = async () => {
      const [row] = await db.query(read);
      return z.object({ read: z.number() }).parse(row).read;
    };
    const before = await counted();
    await db.query("update node set lease_expire_time = now()");
    {
      await using folder = await temporaryFolder();
      const target = { socket: join(folder.path, "nobody"), fabricDisks: "" };
      await using agent = await startAgent({ url: db.url, target });
      const { components, rows } = agent.node.agent;
      const leads = () => components().some(({ name, ok }) => name === "lease" && ok);
      await until("the agent has read its rows and leads", leads);
      expect([[...rows.disks()].length, [...rows.lvols()].length]).toEqual([1, 0]);
    }
    // The ids of the rehearsal, which are rolled back.
    expect((await counted()) - before).toBeLessThan(10);
    const after = await counted();
    // The counters do count: a lookup reads.
    {
      await using opened = await openWriter(db.url);
      const [one] = await db.query("select lvol_uuid::text as uuid from tombstone limit 1");
      const { uuid } = z.object({ uuid: z.string() }).parse(one);
      const lvol = { uuid, nameAsId: undefined, diskId: DISK };
      expect(await opened.writer.findTombstones([lvol])).toHaveLength(1);
    }
    expect(await counted()).toBeGreaterThan(after);
  });
});
