// Whether changes can be committed: what puts it in doubt, and what ends the doubt.
import { expect, it } from "vitest";
import { until } from "../support/agent.ts";
import { testDatabase, type TestDatabase } from "../support/database.ts";
import { DISK } from "../support/model.ts";
import { openWriter, provision } from "../support/writer.ts";

const TABLES = ["node", "disk", "lvol", "snapshot", "object_id", "tombstone", "event"];

async function contentOf(database: TestDatabase): Promise<readonly unknown[]> {
  return await Promise.all(TABLES.map((table) => database.query(`select * from ${table}`)));
}

const cordon = (cordoned: boolean) =>
  ({
    kind: "cordon",
    of: "disk",
    id: DISK,
    cordoned,
    reason: "test",
    actor: "test",
    traceparent: undefined,
  }) as const;

it("is proven for each lease by a rehearsal that leaves nothing behind", async () => {
  await using database = await testDatabase();
  await using opened = await openWriter(database.url);
  const { commits } = opened.writer;
  await until("it is proven", () => !commits.inDoubt && commits.status.ok);
  const before = await contentOf(database);
  opened.writer.proveCommits();
  expect(commits.inDoubt).toBe(true);
  await until("it is proven again", () => !commits.inDoubt && commits.status.ok);
  expect(await contentOf(database)).toEqual(before);
});

it("is in doubt after data that no caller can be blamed for, whatever else is committed", async () => {
  await using database = await testDatabase();
  await using opened = await openWriter(database.url);
  const { writer } = opened;
  await until("it is proven", () => writer.commits.status.ok);
  await database.query("alter table lvol add column foreign_thing text not null");
  await expect(writer.mutate(provision(1))).rejects.toMatchObject({ reason: "INTERNAL" });
  await until("it is known", () => !writer.commits.status.ok);
  expect(writer.commits.status.reason).toContain('column "foreign_thing"');
  const { since } = writer.commits.status;
  await writer.mutate(cordon(true));
  await writer.mutate(cordon(false));
  expect(writer.commits.status).toMatchObject({ ok: false, since });
  await database.query("alter table lvol drop column foreign_thing");
  await until("it is proven again", () => writer.commits.status.ok);
  await writer.mutate(provision(1));
});

it("is not in doubt for what one caller asks for, and PostgreSQL cannot store", async () => {
  await using database = await testDatabase();
  await using opened = await openWriter(database.url);
  const { writer } = opened;
  await until("it is proven", () => writer.commits.status.ok);
  const unstorable = provision(1, { labels: { app: "\0" } });
  await expect(writer.mutate(unstorable)).rejects.toMatchObject({ reason: "INVALID_FIELD" });
  expect([writer.commits.inDoubt, writer.commits.status.ok]).toEqual([false, true]);
});
