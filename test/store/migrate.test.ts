import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Client } from "pg";
import { expect, test } from "vitest";
import { migrate, MigrationFault, schemaState } from "../../src/store/migrate.ts";
import { testDatabase } from "../support/database.ts";

const FIRST = { "000001_animals.sql": "create table animal (name text)" };
const SECOND = { "000002_colours.sql": "alter table animal add colour text" };

test("an empty database is migrated file by file, and a second run has nothing to do", async () => {
  await using db = await emptyDatabase();
  await using dir = await migrations({ ...FIRST, ...SECOND });

  expect(await schemaState(db.client, dir.path)).toEqual({
    kind: "older",
    missing: ["000001_animals.sql", "000002_colours.sql"],
  });
  expect(await migrate(db.client, dir.path)).toEqual({
    applied: ["000001_animals.sql", "000002_colours.sql"],
  });
  await db.client.query("insert into animal (name, colour) values ('fox', 'red')");
  expect(await schemaState(db.client, dir.path)).toEqual({ kind: "current" });
  expect(await migrate(db.client, dir.path)).toEqual({ applied: [] });
  expect(await db.rows("select name, colour from animal")).toEqual([
    { name: "fox", colour: "red" },
  ]);
  expect(
    await db.rows("select version, name, length(checksum) as bits from schema_migration"),
  ).toEqual([
    { version: 1, name: "000001_animals.sql", bits: 64 },
    { version: 2, name: "000002_colours.sql", bits: 64 },
  ]);
});

test("only the new files run on a schema that is older", async () => {
  await using db = await emptyDatabase();
  await using dir = await migrations(FIRST);
  await migrate(db.client, dir.path);
  await dir.write(SECOND);

  expect(await schemaState(db.client, dir.path)).toEqual({
    kind: "older",
    missing: ["000002_colours.sql"],
  });
  expect(await migrate(db.client, dir.path)).toEqual({ applied: ["000002_colours.sql"] });
});

test("an edited file is refused by name, and nothing after it runs", async () => {
  await using db = await emptyDatabase();
  await using dir = await migrations(FIRST);
  await migrate(db.client, dir.path);
  await dir.write({ "000001_animals.sql": "create table animal (name text not null)", ...SECOND });

  expect(await schemaState(db.client, dir.path)).toEqual({
    kind: "edited",
    name: "000001_animals.sql",
    reason: "it was edited after it ran",
  });
  await expect(migrate(db.client, dir.path)).rejects.toThrow(
    /^migration 000001_animals\.sql is refused: it was edited after it ran$/,
  );
  expect(await db.rows("select version from schema_migration")).toEqual([{ version: 1 }]);
});

test("a renamed file is refused with the name it ran under", async () => {
  await using db = await emptyDatabase();
  await using dir = await migrations(FIRST);
  await migrate(db.client, dir.path);
  await rm(join(dir.path, "000001_animals.sql"));
  await dir.write({ "000001_beasts.sql": FIRST["000001_animals.sql"] });

  await expect(migrate(db.client, dir.path)).rejects.toThrow(/ran under the name 000001_animals/);
});

test("a schema newer than the files is reported and not changed", async () => {
  await using db = await emptyDatabase();
  await using dir = await migrations({ ...FIRST, ...SECOND });
  await migrate(db.client, dir.path);
  await rm(join(dir.path, "000002_colours.sql"));

  expect(await schemaState(db.client, dir.path)).toEqual({
    kind: "newer",
    unknown: ["000002_colours.sql"],
  });
  await expect(migrate(db.client, dir.path)).rejects.toThrow(
    "the schema is newer than this program: 000002_colours.sql",
  );
});

test("a migration that ran before an earlier one did is refused", async () => {
  await using db = await emptyDatabase();
  await using dir = await migrations({ ...FIRST, ...SECOND });
  await migrate(db.client, dir.path);
  await db.client.query("delete from schema_migration where version = 1");

  expect(await schemaState(db.client, dir.path)).toMatchObject({
    kind: "edited",
    name: "000002_colours.sql",
  });
});

test.for([
  ["a gap", { ...FIRST, "000003_late.sql": "select 1" }, /000003_late\.sql is not 000002_/],
  ["a number used twice", { ...FIRST, "000001_b.sql": "select 1" }, /000001_b\.sql is not 000002_/],
  ["a name out of form", { "1_init.sql": "select 1" }, /1_init\.sql is not 000001_/],
  ["no file at all", {}, /there are no migrations/],
] as const)("%s is refused before the database is touched", async ([, files, message]) => {
  await using db = await emptyDatabase();
  await using dir = await migrations(files);

  await expect(migrate(db.client, dir.path)).rejects.toThrow(message);
  await expect(schemaState(db.client, dir.path)).rejects.toThrow(MigrationFault);
  expect(await db.rows("select to_regclass('schema_migration') as found")).toEqual([
    { found: null },
  ]);
});

test("a missing folder is a MigrationFault that names the folder", async () => {
  await using db = await emptyDatabase();
  await expect(migrate(db.client, "/nowhere/migrations")).rejects.toThrow(
    "cannot read the migrations in /nowhere/migrations",
  );
});

test("a file that fails is rolled back, and the connection can be used again", async () => {
  await using db = await emptyDatabase();
  await using dir = await migrations({
    ...FIRST,
    "000002_broken.sql": "create table half (id integer); insert into half values ('x')",
  });

  const fault = await migrate(db.client, dir.path).catch((error: unknown) => error);
  expect(fault).toBeInstanceOf(MigrationFault);
  expect(fault).toMatchObject({
    message: "migration 000002_broken.sql failed",
    cause: { code: "22P02" },
  });
  expect(
    await db.rows("select to_regclass('half') as half, to_regclass('animal')::text as animal"),
  ).toEqual([{ half: null, animal: "animal" }]);
  await rm(join(dir.path, "000002_broken.sql"));
  await dir.write(SECOND);
  expect(await migrate(db.client, dir.path)).toEqual({ applied: ["000002_colours.sql"] });
});

test("a file that ends its own transaction is never recorded as done", async () => {
  await using db = await emptyDatabase();
  await using dir = await migrations({ "000001_sly.sql": "create table sly (); commit" });

  await expect(migrate(db.client, dir.path)).rejects.toMatchObject({
    cause: { message: "it ends the transaction it runs in" },
  });
  expect(await schemaState(db.client, dir.path)).toMatchObject({ kind: "older" });
});

test("of two concurrent runners, one runs all files and the other has nothing to do", async () => {
  await using db = await emptyDatabase();
  await using other = await connected(db.url);
  await using dir = await migrations({
    "000001_slow.sql": "create table slow (); select pg_sleep(0.3)",
    ...SECOND_SLOW,
  });

  const results = await Promise.all([
    migrate(db.client, dir.path),
    migrate(other.client, dir.path),
  ]);
  expect(new Set(results.map(({ applied }) => applied.length))).toEqual(new Set([0, 2]));
  expect(await db.rows("select count(*)::integer as runs from run")).toEqual([{ runs: 1 }]);
});

const SECOND_SLOW = {
  "000002_once.sql": "create table run (n integer); insert into run values (1)",
};

test("a runner that waits for another can be aborted and has done nothing", async () => {
  await using db = await emptyDatabase();
  await using other = await connected(db.url);
  await using dir = await migrations({ "000001_hold.sql": "select pg_advisory_xact_lock(77)" });
  await using holder = await connected(db.url);
  await holder.client.query("select pg_advisory_lock(77)");

  const first = migrate(db.client, dir.path);
  await expect
    .poll(async () => {
      const { rows } = await holder.client.query<{ waiting: number }>(
        "select count(*)::integer as waiting from pg_locks where locktype = 'advisory' and not granted",
      );
      return rows[0]?.waiting;
    })
    .toBe(1);
  const abort = new AbortController();
  const second = migrate(other.client, dir.path, { signal: abort.signal });
  await expect
    .poll(async () => {
      const { rows } = await holder.client.query<{ asking: number }>(
        `select count(*)::integer as asking from pg_stat_activity
         where datname = current_database() and query like 'select pg_try_advisory_lock%'`,
      );
      return rows[0]?.asking;
    })
    .toBe(1);
  abort.abort();
  await expect(second).rejects.toMatchObject({ name: "AbortError" });
  await holder.client.query("select pg_advisory_unlock(77)");
  expect(await first).toEqual({ applied: ["000001_hold.sql"] });
});

test("the template database of the tests has the schema of the project's migrations", async () => {
  await using db = await testDatabase();
  await using connection = await connected(db.url);
  const dir = fileURLToPath(new URL("../../migrations", import.meta.url));
  expect(await schemaState(connection.client, dir)).toEqual({ kind: "current" });
});

test("what rows of disks said of their drivers is in rows of controllers after 000009", async () => {
  await using db = await emptyDatabase();
  const folder = new URL("../../migrations/", import.meta.url);
  const names = (await readdir(folder)).toSorted();
  const read = async (name: string) => [name, await readFile(new URL(name, folder), "utf8")];
  const files = await Promise.all(names.map(read));
  await using dir = await migrations(Object.fromEntries(files.slice(0, 8)));
  await migrate(db.client, dir.path);
  const disk = (id: number, serial: string, address: string, seen: string, driver: string) =>
    `('00000000-0000-4000-8000-00000000000${id}', 'n', '${serial}', 'M', 1, 'PCIe', '${address}',
      '${driver}', 'nvme', '{"op": "attach"}', 1, 1, '${seen}', 1)`;
  await db.client.query(`insert into node (node_id, fleet, nqn_prefix) values ('n', 'f', 'p')`);
  await db.client.query(
    `insert into disk (id, node_id, serial, model, nsid, transport, address, driver,
       original_driver, pending_op, size_bytes, block_size, last_seen_time, revision) values
     ${disk(1, "OLD", "0000:01:00.0", "2026-01-01", "nvme")},
     ${disk(2, "NEW", "0000:01:00.0", "2026-02-01", "vfio-pci")},
     ${disk(3, "FREE", "0000:02:00.0", "2026-02-01", "nvme")}`,
  );
  await dir.write(Object.fromEntries(files.slice(8)));
  await migrate(db.client, dir.path);
  expect(
    await db.rows(
      `select id, serial, driver, original_driver, pending_op ->> 'op' as op
       from controller order by id`,
    ),
  ).toEqual([
    {
      id: "0000:01:00.0",
      serial: "NEW",
      driver: "vfio-pci",
      original_driver: "nvme",
      op: "attach",
    },
    { id: "0000:02:00.0", serial: "FREE", driver: "nvme", original_driver: null, op: "attach" },
  ]);
  expect(await db.rows(`select 1 from disk where pending_op is not null`)).toEqual([]);
});

async function connected(url: string) {
  const client = new Client({ connectionString: url });
  await client.connect();
  return { client, [Symbol.asyncDispose]: () => client.end() };
}

async function emptyDatabase() {
  const database = await testDatabase({ migrated: false });
  const { client } = await connected(database.url);
  return {
    client,
    url: database.url,
    rows: async (sql: string): Promise<unknown[]> => (await client.query(sql)).rows,
    async [Symbol.asyncDispose]() {
      await client.end();
      await database[Symbol.asyncDispose]();
    },
  };
}

async function migrations(files: Readonly<Record<string, string>>) {
  const path = await mkdtemp(join(tmpdir(), "sn-migrations-"));
  const write = async (more: Readonly<Record<string, string>>) => {
    for (const [name, sql] of Object.entries(more)) await writeFile(join(path, name), sql);
  };
  await write(files);
  return {
    path,
    write,
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }),
  };
}
