// Migrates the schema with numbered plain SQL files. A file that ran is never run again and must
// never change: its checksum is kept, and an edited, renamed or missing file is refused before any
// file runs. There are no down migrations; a schema newer than the code is reported and never
// changed.
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Sql } from "./sql.ts";

/** The migration files that belong to this version of the program. */
export const MIGRATIONS_DIR = fileURLToPath(new URL("../../migrations/", import.meta.url));

/** The schema cannot be used or migrated; the message names the file and the reason. */
export class MigrationFault extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "MigrationFault";
  }
}

/** How the schema of a database compares with the migration files of this program. */
export type SchemaState =
  | { readonly kind: "current" }
  /** Files that were not run yet, in order. */
  | { readonly kind: "older"; readonly missing: readonly string[] }
  /** Files that were run and that this program does not have: it is too old, or one was deleted. */
  | { readonly kind: "newer"; readonly unknown: readonly string[] }
  /** A file that was run is not the one that is there now. */
  | { readonly kind: "edited"; readonly name: string; readonly reason: string };

type Migration = {
  readonly version: number;
  /** The file's name, such as 000001_init.sql. */
  readonly name: string;
  readonly sql: string;
  readonly checksum: string;
};

type Applied = Pick<Migration, "version" | "name" | "checksum">;

const FILE_NAME = /^(\d{6})_[a-z0-9_]+\.sql$/;
/** Key of the advisory lock that all runners on a database share; an arbitrary constant. */
const LOCK = [0x73_6e_61_67, 1] as const;
const LOCK_POLL_MS = 50;

/**
 * Runs the files of dir that have not run, each in one transaction, and returns their names. A
 * second runner waits for the first and finds nothing to do. Needs a connection of its own, without
 * a statement timeout. Throws MigrationFault for bad, edited, missing or failing files and for a
 * newer schema; files that ran before the fault stay applied. Aborting ends the wait for another
 * runner and stops between two files; a file that has started runs to its end.
 */
export async function migrate(
  client: Sql,
  dir: string,
  options: { readonly signal?: AbortSignal } = {},
): Promise<{ applied: string[] }> {
  const files = await readMigrations(dir);
  await lock(client, options);
  try {
    await client.query(`create table if not exists schema_migration (
      version integer primary key, name text not null unique, checksum text not null,
      applied_time timestamptz not null default now())`);
    const todo = toRun(files, await readApplied(client));
    const applied: string[] = [];
    for (const file of todo) {
      options.signal?.throwIfAborted();
      await run(client, file);
      applied.push(file.name);
    }
    return { applied };
  } finally {
    // If the connection broke, the server has released the lock; the first error is the one to
    // report.
    await client
      .query("select pg_advisory_unlock($1::integer, $2::integer)", [...LOCK])
      .catch(() => undefined);
  }
}

/** Compares schema and files without changes. Throws MigrationFault if the files are invalid. */
export async function schemaState(client: Sql, dir: string): Promise<SchemaState> {
  const files = await readMigrations(dir);
  const { rows } = await client.query<{ present: boolean }>(
    "select to_regclass('schema_migration') is not null as present",
  );
  return compare(files, rows[0]?.present === true ? await readApplied(client) : []);
}

function compare(files: readonly Migration[], applied: readonly Applied[]): SchemaState {
  for (const [index, row] of applied.entries()) {
    const file = files[row.version - 1];
    if (file === undefined) {
      return { kind: "newer", unknown: applied.slice(index).map(({ name }) => name) };
    }
    const fault = difference(file, row, index + 1);
    if (fault !== undefined) return { kind: "edited", name: file.name, reason: fault };
  }
  const missing = files.slice(applied.length).map(({ name }) => name);
  return missing.length === 0 ? { kind: "current" } : { kind: "older", missing };
}

function difference(file: Migration, row: Applied, expectedVersion: number): string | undefined {
  if (row.version !== expectedVersion) return `it ran before version ${expectedVersion} did`;
  if (row.name !== file.name) return `it ran under the name ${row.name}`;
  if (row.checksum !== file.checksum) return "it was edited after it ran";
  return undefined;
}

function toRun(files: readonly Migration[], applied: readonly Applied[]): readonly Migration[] {
  const state = compare(files, applied);
  if (state.kind === "newer") {
    throw new MigrationFault(`the schema is newer than this program: ${state.unknown.join(", ")}`);
  }
  if (state.kind === "edited") {
    throw new MigrationFault(`migration ${state.name} is refused: ${state.reason}`);
  }
  return files.slice(applied.length);
}

async function run(client: Sql, { version, name, sql, checksum }: Migration): Promise<void> {
  try {
    await client.query("begin");
    const before = await transactionId(client);
    await client.query(sql);
    if ((await transactionId(client)) !== before) {
      throw new Error("it ends the transaction it runs in");
    }
    await client.query(
      `insert into schema_migration (version, name, checksum)
       values ($1::integer, $2::text, $3::text)`,
      [version, name, checksum],
    );
    await client.query("commit");
  } catch (error) {
    // If the connection broke, the server has rolled back; the first error is the one to report.
    await client.query("rollback").catch(() => undefined);
    throw new MigrationFault(`migration ${name} failed`, { cause: error });
  }
}

async function transactionId(client: Sql): Promise<string | undefined> {
  const { rows } = await client.query<{ id: string }>("select pg_current_xact_id()::text as id");
  return rows[0]?.id;
}

async function readApplied(client: Sql): Promise<Applied[]> {
  const { rows } = await client.query<Applied>(
    "select version, name, checksum from schema_migration order by version",
  );
  return rows;
}

/** Polls for the lock: a wait within the server could not be aborted. */
async function lock(client: Sql, options: { readonly signal?: AbortSignal }): Promise<void> {
  for (;;) {
    options.signal?.throwIfAborted();
    const { rows } = await client.query<{ locked: boolean }>(
      "select pg_try_advisory_lock($1::integer, $2::integer) as locked",
      [...LOCK],
    );
    if (rows[0]?.locked === true) return;
    await sleep(LOCK_POLL_MS, undefined, options);
  }
}

async function readMigrations(dir: string): Promise<Migration[]> {
  const names = await readdir(dir).catch((cause: unknown) => {
    throw new MigrationFault(`cannot read the migrations in ${dir}`, { cause });
  });
  const files: Migration[] = [];
  for (const name of names.filter((each) => each.endsWith(".sql")).toSorted()) {
    const version = Number(FILE_NAME.exec(name)?.[1]);
    if (version !== files.length + 1) {
      const expected = String(files.length + 1).padStart(6, "0");
      throw new MigrationFault(`migration ${name} is not ${expected}_name.sql, the next in order`);
    }
    const sql = await readFile(join(dir, name), "utf8");
    files.push({ version, name, sql, checksum: createHash("sha256").update(sql).digest("hex") });
  }
  if (files.length === 0) throw new MigrationFault(`there are no migrations in ${dir}`);
  return files;
}
