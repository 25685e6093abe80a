// One PostgreSQL server per vitest run, in its own folder, with a migrated template database that
// each test copies. Concurrent runs are independent; the next run removes what a killed run left.
import { Client } from "pg";
import type { TestProject } from "vitest/node";
import { type Postgres, startPostgres } from "../../src/demo/postgres.ts";
import { migratedDatabase } from "./migrated-database.ts";
import { removeLeftOverFolders, serverFolder } from "./server-folder.ts";

/** Template of test databases. It can be copied only while no client is connected to it. */
export const MIGRATED_TEMPLATE = "migrated";

declare module "vitest" {
  interface ProvidedContext {
    /** URL of the run's server, database `postgres`. */
    readonly postgresUrl: string;
  }
}

export async function setup(project: TestProject): Promise<() => Promise<void>> {
  await removeLeftOverFolders();
  const folder = await serverFolder();
  const postgres = await startPostgres({ stateDir: folder.path });
  const teardown = async () => {
    await postgres[Symbol.asyncDispose]();
    await folder[Symbol.asyncDispose]();
  };
  try {
    await disableFsync(postgres);
    await migratedDatabase(postgres, MIGRATED_TEMPLATE);
  } catch (error) {
    await teardown();
    throw error;
  }
  project.provide("postgresUrl", postgres.url());
  return teardown;
}

/** Turns off fsync: test data need not survive a crash, and hundreds of databases are created. */
async function disableFsync(postgres: Postgres): Promise<void> {
  const client = new Client({ connectionString: postgres.url() });
  await client.connect();
  try {
    await client.query("alter system set fsync = off");
    await client.query("alter system set full_page_writes = off");
    await client.query("select pg_reload_conf()");
  } finally {
    await client.end();
  }
}
