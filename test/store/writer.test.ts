import { describe, expect, it } from "vitest";
import type { Decision } from "../../src/model/admission.ts";
import { Refusal } from "../../src/model/errors.ts";
import { uuidV5 } from "../../src/model/identity.ts";
import { openDatabase } from "../../src/store/database.ts";
import { takeIds } from "../../src/store/object-ids.ts";
import { until } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import {
  CLUSTER,
  creationRequest,
  DISK,
  diskRow,
  MIB,
  NODE,
  PREFIX,
  VOLUME,
} from "../support/model.ts";
import { log, openWriter, provision, rowOf, type Open } from "../support/writer.ts";

describe("the writer", () => {
  it("commits what it answers, and has in memory exactly the rows of the database", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, rows } = opened;
    const request = creationRequest({
      sizeBytes: 10n * MIB,
      hosts: ["nqn.2026-11.io.host:a"],
      qos: { rwIops: 2n ** 60n, rwMibPerSecond: 1n, readMibPerSecond: 0n, writeMibPerSecond: 0n },
    });
    const { id } = rowOf(await writer.mutate(provision(1, { request })));
    await using second = await openWriter(db.url);
    expect(second.rows.lvol(id)).toEqual(rows.lvol(id));
    expect(second.rows.disk(DISK)).toEqual(rows.disk(DISK));
    expect(second.rows.lvol(id)?.request.qos?.rwIops).toBe(2n ** 60n);
  });

  it("commits a thousand concurrent intents in a few transactions, none lost, none twice", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url, diskRow({ totalClusters: 5_000n }));
    const { writer, rows } = opened;
    const before = rows.node?.revision ?? 0n;
    const asked = Array.from({ length: 1_000 }, (_, index) => writer.mutate(provision(index)));
    const decisions = await Promise.allSettled(asked);
    expect(decisions.every(({ status }) => status === "fulfilled")).toBe(true);
    expect(rows.disk(DISK)).toMatchObject({ lvolCount: 1_000, promisedBytes: 1_000n * CLUSTER });
    const transactions = (rows.node?.revision ?? 0n) - before;
    expect(transactions).toBeLessThanOrEqual(8n);
  });

  it("refuses one intent of a batch and commits the others", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer } = opened;
    const huge = provision(2, { request: creationRequest({ sizeBytes: 2n ** 50n }) });
    const results = await Promise.allSettled([
      writer.mutate(provision(1)),
      writer.mutate(huge),
      writer.mutate(provision(3)),
    ]);
    expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
  });

  it("gives two concurrent calls with one id one volume", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, rows } = opened;
    const [a, b] = await Promise.all([writer.mutate(provision(1)), writer.mutate(provision(1))]);
    expect(rowOf(a).createTime).toEqual(rowOf(b).createTime);
    expect(rows.disk(DISK)?.lvolCount).toBe(1);
  });

  it("gives an id that two nodes race for to exactly one of them", async () => {
    await using db = await testDatabase();
    await using one = await openWriter(db.url);
    await using two = await openWriter(
      db.url,
      diskRow({ id: uuidV5(DISK, "2"), nodeId: "node-2" }),
    );
    const ask = ({ writer }: Open, order: readonly number[]) =>
      Promise.allSettled(order.map((index) => writer.mutate(provision(index))));
    const order = Array.from({ length: 100 }, (_, index) => index);
    const [ofOne, ofTwo] = await Promise.all([ask(one, order), ask(two, order.toReversed())]);
    for (const [index, result] of ofOne.entries()) {
      const other = ofTwo[order.length - 1 - index];
      const [won, lost] = result.status === "fulfilled" ? [result, other] : [other, result];
      expect(won?.status).toBe("fulfilled");
      expect(lost).toMatchObject({ status: "rejected", reason: { reason: "OTHER_NODE" } });
    }
    expect(await db.query("select id from lvol")).toHaveLength(order.length);
  });

  it("refuses an id that another node takes during its transaction, and only that", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, database } = opened;
    await using two = await openWriter(
      db.url,
      diskRow({ id: uuidV5(DISK, "2"), nodeId: "node-2" }),
    );
    const taken = provision(2);
    let asked: Promise<readonly PromiseSettledResult<Decision>[]> | undefined;
    await two.database.transaction(async (client) => {
      await takeIds(client, "node-2", [{ id: taken.id, kind: "l" }]);
      asked = Promise.allSettled([1, 2, 3].map((index) => writer.mutate(provision(index))));
      await until("the writer waits for that transaction", async () => {
        const waiting = "select from pg_locks where not granted";
        return (await database.pool.query(waiting)).rowCount === 1;
      });
    });
    const [first, second, third] = (await asked) ?? [];
    expect(second).toMatchObject({ reason: { reason: "OTHER_NODE", code: "ALREADY_EXISTS" } });
    expect([first?.status, third?.status]).toEqual(["fulfilled", "fulfilled"]);
  });

  it("refuses an id of a volume whose row is gone, of any node", async () => {
    await using db = await testDatabase();
    await using one = await openWriter(db.url);
    await using two = await openWriter(
      db.url,
      diskRow({ id: uuidV5(DISK, "2"), nodeId: "node-2" }),
    );
    const { id } = rowOf(await one.writer.mutate(provision(1)));
    await db.query("delete from lvol");
    one.writer.refresh();
    await until("the row is gone", () => one.rows.lvol(id) === undefined);
    await expect(one.writer.mutate(provision(1))).rejects.toMatchObject({ reason: "ID_RETIRED" });
    await expect(two.writer.mutate(provision(1))).rejects.toMatchObject({ reason: "OTHER_NODE" });
    const deletion = { kind: "delete", id, force: false, reason: "" } as const;
    const caller = { actor: "test", traceparent: undefined };
    expect(await one.writer.mutate({ ...deletion, ...caller })).toMatchObject({ row: undefined });
    await expect(two.writer.mutate({ ...deletion, ...caller })).rejects.toMatchObject({
      reason: "OTHER_NODE",
    });
  });

  it("takes no id for a volume that is refused or only validated", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer } = opened;
    const huge = { request: creationRequest({ sizeBytes: 2n ** 50n }) };
    await expect(writer.mutate(provision(1, huge))).rejects.toThrow(Refusal);
    await writer.mutate(provision(1, { validateOnly: true }));
    expect(await db.query("select id from object_id")).toEqual([]);
    await writer.mutate(provision(1));
    expect(await db.query("select id from object_id")).toHaveLength(1);
  });

  it.each(["disk", "node"] as const)(
    "keeps a cordon of the %s in its row, in the order in which a batch asks for it",
    async (of) => {
      await using db = await testDatabase();
      await using opened = await openWriter(db.url);
      const { writer } = opened;
      const cordon = (cordoned: boolean) =>
        writer.mutate({
          kind: "cordon",
          of,
          id: of === "node" ? NODE : DISK,
          cordoned,
          reason: "test",
          actor: "test",
          traceparent: undefined,
        });
      const before = await writer.mutate(provision(1));
      const results = await Promise.allSettled([
        cordon(true),
        writer.mutate(provision(2)),
        writer.mutate(provision(1)),
        cordon(true),
        cordon(false),
        writer.mutate(provision(2)),
        cordon(true),
      ]);
      expect(results).toMatchObject([
        { value: { changed: true } },
        { reason: { reason: "CORDONED" } },
        { value: { row: { id: rowOf(before).id } } },
        { value: { changed: false } },
        { value: { changed: true } },
        { status: "fulfilled" },
        { value: { changed: true } },
      ]);
      expect(await db.query(`select cordoned from ${of}`)).toEqual([{ cordoned: true }]);
      await writer.mutate(provision(1));
      expect(await db.query(`select cordoned from ${of}`)).toEqual([{ cordoned: true }]);
    },
  );

  it("admits nothing on rows that another process has changed: it reads them again first", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, rows } = opened;
    await writer.mutate(provision(1));
    // As a rebuild does: writes rows and sums, and increments the revision of the node.
    await db.query(`update disk set promised_bytes = ${10n * CLUSTER}, lvol_count = 10,
      revision = revision + 1`);
    await db.query("update node set revision = revision + 1");
    await writer.mutate(provision(2));
    expect(rows.disk(DISK)).toMatchObject({ promisedBytes: 11n * CLUSTER, lvolCount: 11 });
    const [disk] = await db.query("select promised_bytes, lvol_count from disk");
    expect(disk).toMatchObject({ lvol_count: 11 });
  });

  it("gives up the lease when the database was restored, and keeps its rows until then", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, rows } = opened;
    let lost = 0;
    writer.onLeaseLost(() => (lost += 1));
    const { id } = rowOf(await writer.mutate(provision(1)));
    await db.query("delete from lvol");
    await db.query("update node set revision = revision - 1");
    await expect(writer.mutate(provision(2))).rejects.toThrow(Refusal);
    expect(lost).toBe(1);
    expect(await db.query("select id from lvol")).toEqual([]);
    // Without the lease, the rows of the database replace those in memory.
    writer.refresh();
    await until("the lost row is gone", () => rows.lvol(id) === undefined);
    expect(rows.lvolByNqn(`${PREFIX}:${id}`)).toBeUndefined();
  });

  it("answers what takes something away only once the local copy is kept, and the rest at once", async () => {
    await using db = await testDatabase();
    const kept = Promise.withResolvers<void>();
    await using opened = await openWriter(db.url, diskRow(), { keep: () => kept.promise });
    const { writer, rows } = opened;
    const host = "nqn.2026-11.io.host:a";
    const request = creationRequest({ sizeBytes: CLUSTER, hosts: [host] });
    const { id } = rowOf(await writer.mutate(provision(1, { request })));
    const answered: string[] = [];
    const asked = [
      writer.mutate({ kind: "revokeHost", id, host, actor: "test", traceparent: undefined }),
      writer.mutate({
        kind: "delete",
        id,
        force: false,
        reason: "",
        actor: "test",
        traceparent: undefined,
      }),
    ].map((answer) => answer.then(({ kind }) => answered.push(kind)));
    await until("both are committed", () => rows.lvol(id)?.deleteRequestedTime !== undefined);
    // A call that is made later and answered shows that those before it could have been.
    await writer.mutate(provision(2));
    expect(answered).toEqual([]);
    kept.resolve();
    await Promise.all(asked);
    expect(answered).toEqual(["lvol", "lvol"]);
  });

  it("answers LOCAL_COPY_STALE to a revocation that an old local copy could undo", async () => {
    await using db = await testDatabase();
    const copy = { keep: () => Promise.reject(new Error("EROFS")) };
    await using opened = await openWriter(db.url, diskRow(), copy);
    const { writer, rows } = opened;
    const host = "nqn.2026-11.io.host:a";
    const request = creationRequest({ sizeBytes: CLUSTER, hosts: [host] });
    const { id } = rowOf(await writer.mutate(provision(1, { request })));
    const revoke = { kind: "revokeHost", id, host, actor: "test", traceparent: undefined } as const;
    await expect(writer.mutate(revoke)).rejects.toMatchObject({ reason: "LOCAL_COPY_STALE" });
    expect(rows.lvol(id)?.hosts).toEqual([]);
    await expect(writer.mutate(revoke)).rejects.toMatchObject({ reason: "LOCAL_COPY_STALE" });
  });

  it("drops a status record of an older generation, and resolves it false", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, rows } = opened;
    const old = rowOf(await writer.mutate(provision(1)));
    await writer.mutate({
      kind: "allowHost",
      id: old.id,
      host: "nqn.2026-11.io.host:a",
      actor: "test",
      traceparent: undefined,
    });
    expect(await writer.recordLvol(old, { observedGeneration: 1n })).toBe(false);
    expect(rows.lvol(old.id)?.observedGeneration).toBe(0n);
    const now = rows.lvol(old.id)!;
    expect(await writer.recordLvol(now, { observedGeneration: 2n })).toBe(true);
    expect(rows.lvol(old.id)?.observedGeneration).toBe(2n);
  });

  it("releases the promised bytes of a tombstone in the same transaction", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, rows } = opened;
    const { id } = rowOf(await writer.mutate(provision(1)));
    await writer.mutate({
      kind: "delete",
      id,
      force: false,
      reason: "",
      actor: "test",
      traceparent: undefined,
    });
    await writer.recordLvol(rows.lvol(id)!, { deleteTime: new Date(), exported: false });
    expect(rows.disk(DISK)).toMatchObject({ promisedBytes: 0n, lvolCount: 0 });
    expect(rows.lvol(id)?.deleteTime).toBeInstanceOf(Date);
  });

  it("has the database refuse to clear the lvol uuid of a volume", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, rows, database } = opened;
    const { id } = rowOf(await writer.mutate(provision(1)));
    await writer.recordLvol(rows.lvol(id)!, { lvolUuid: VOLUME });
    const forget = database.pool.query("update lvol set lvol_uuid = null where id = $1", [id]);
    await expect(forget).rejects.toThrow("may not change once it was seen");
  });

  it("writes nothing once another agent has acquired the lease, even if its fence has an epoch", async () => {
    await using db = await testDatabase();
    await using first = await openWriter(db.url);
    await using second = await openWriter(db.url);
    const kept = rowOf(await second.writer.mutate(provision(1)));
    const late = first.writer.mutate(provision(2));
    await expect(late).rejects.toMatchObject({ reason: "NOT_LEASE_HOLDER", code: "UNAVAILABLE" });
    const { rows } = await second.database.pool.query("select id from lvol");
    expect(rows).toEqual([{ id: kept.id }]);
    await expect(first.writer.mutate(provision(3))).rejects.toMatchObject({
      reason: "NOT_LEASE_HOLDER",
    });
  });

  it("answers DATABASE_DOWN while the database cannot be reached, and works again afterwards", async () => {
    await using db = await testDatabase();
    await using opened = await openWriter(db.url);
    const { writer, rows } = opened;
    await using admin = openDatabase({ url: db.url.replace(db.name, "postgres"), log });
    await admin.pool.query(`alter database ${db.name} with allow_connections false`);
    const cut = `select pg_terminate_backend(pid) from pg_stat_activity where datname = '${db.name}'`;
    await admin.pool.query(cut);
    const refused = await writer.mutate(provision(1)).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(Refusal);
    expect(refused).toMatchObject({ reason: "DATABASE_DOWN", code: "UNAVAILABLE" });
    await admin.pool.query(`alter database ${db.name} with allow_connections true`);
    await expect.poll(() => writer.connected, { timeout: 20_000 }).toBe(true);
    const { id } = rowOf(await writer.mutate(provision(1)));
    expect(rows.lvol(id)?.id).toBe(id);
  });
});
