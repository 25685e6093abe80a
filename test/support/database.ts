// A new PostgreSQL database for one test, dropped afterwards.
import { randomBytes } from "node:crypto";
import { Client, Pool } from "pg";
import { inject } from "vitest";
import { MIGRATED_TEMPLATE } from "./postgres-global.ts";

export type TestDatabase = {
  readonly name: string;
  readonly url: string;
  /** Runs a statement without the agent knowing of it. */
  readonly query: (statement: string) => Promise<readonly unknown[]>;
  [Symbol.asyncDispose](): Promise<void>;
};

/**
 * Creates a database on the server of the test run: migrated, empty, or a copy of another one to which
 * nobody is connected. Disposing drops it, even if
 * connections to it are still open.
 */
export async function testDatabase(
  options: { readonly migrated?: boolean; readonly template?: string } = {},
): Promise<TestDatabase> {
  const name = `test_${randomBytes(6).toString("hex")}`;
  const empty = options.migrated === false ? "template0" : MIGRATED_TEMPLATE;
  const template = options.template ?? empty;
  await administer(`create database ${name} template ${template}`);
  const url = inject("postgresUrl").replace("@/postgres?", `@/${name}?`);
  return {
    name,
    url,
    query: (statement) => query(url, statement),
    [Symbol.asyncDispose]: () => administer(`drop database ${name} with (force)`),
  };
}

/** Used and emptied databases of this process. */
const emptied: TestDatabase[] = [];

/**
 * Like a migrated testDatabase, but reused: for hundreds of scenarios in one process, where
 * creating and dropping a database takes longer than a scenario.
 */
export async function recycledDatabase(): Promise<TestDatabase> {
  const database = emptied.pop() ?? (await testDatabase());
  return {
    ...database,
    [Symbol.asyncDispose]: async () => {
      // Sessions of killed agents may still hold locks.
      await database.query(
        `select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()`,
      );
      await database.query(
        "truncate node, controller, disk, snapshot, lvol, object_id, tombstone, event",
      );
      emptied.push(database);
    },
  };
}

let administration: Pool | undefined;

/** On connections of this process that stay open, as the server needs longer for a new one than for the statement. */
async function administer(statement: string): Promise<void> {
  if (administration === undefined) {
    administration = new Pool({ connectionString: inject("postgresUrl"), allowExitOnIdle: true });
    // An idle connection ends with the server of the run.
    administration.on("error", () => undefined);
  }
  await administration.query(statement);
}

export async function query(url: string, statement: string): Promise<readonly unknown[]> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(statement)).rows;
  } finally {
    await client.end();
  }
}
