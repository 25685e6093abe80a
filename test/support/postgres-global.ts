// One real PostgreSQL server per vitest run, in a folder of its own, with a migrated database to
// copy for each test. Runs side by side do not meet; what a killed run left is removed by the next.
import { Client } from "pg";
import type { TestProject } from "vitest/node";
import { type Postgres, startPostgres } from "../../src/demo/postgres.ts";
import { migratedDatabase } from "./migrated-database.ts";
import { removeLeftOverFolders, serverFolder } from "./server-folder.ts";

/** Databases are made as copies of this one, which works only while nobody is connected to it. */
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
    await forgetful(postgres);
    await migratedDatabase(postgres, MIGRATED_TEMPLATE);
  } catch (error) {
    await teardown();
    throw error;
  }
  project.provide("postgresUrl", postgres.url());
  return teardown;
}

/** Nobody pulls the plug of this server: hundreds of databases are made without waiting for the disk. */
async function forgetful(postgres: Postgres): Promise<void> {
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
