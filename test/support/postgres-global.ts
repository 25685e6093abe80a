// One real PostgreSQL server per vitest run, in a folder of its own, with a migrated database to
// copy for each test. Runs side by side do not meet; what a killed run left is removed by the next.
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Client } from "pg";
import type { TestProject } from "vitest/node";
import { endLeftOverPostgres, type Postgres, startPostgres } from "../../src/demo/postgres.ts";
import {
  identityOf,
  isRunning,
  readPidFile,
  writePidFile,
} from "../../src/demo/process-identity.ts";
import { migrate } from "../../src/store/migrate.ts";

/** Databases are made as copies of this one, which works only while nobody is connected to it. */
export const MIGRATED_TEMPLATE = "migrated";
const PREFIX = "sn-test-pg-";
const OWNER_FILE = "vitest.pid";

declare module "vitest" {
  interface ProvidedContext {
    /** URL of the run's server, database `postgres`. */
    readonly postgresUrl: string;
  }
}

export async function setup(project: TestProject): Promise<() => Promise<void>> {
  await removeLeftOvers();
  const folder = await mkdtemp(join(tmpdir(), PREFIX));
  const self = identityOf(process.pid);
  if (self !== undefined) writePidFile(join(folder, OWNER_FILE), self);
  const postgres = await startPostgres({ stateDir: folder });
  const teardown = async () => {
    await postgres[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  };
  try {
    await makeTemplate(postgres);
  } catch (error) {
    await teardown();
    throw error;
  }
  project.provide("postgresUrl", postgres.url());
  return teardown;
}

async function makeTemplate(postgres: Postgres): Promise<void> {
  await postgres.createDatabase(MIGRATED_TEMPLATE);
  const client = new Client({ connectionString: postgres.url(MIGRATED_TEMPLATE) });
  await client.connect();
  try {
    await migrate(client, fileURLToPath(new URL("../../migrations", import.meta.url)));
  } finally {
    await client.end();
  }
}

async function removeLeftOvers(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    if (!name.startsWith(PREFIX)) continue;
    const folder = join(tmpdir(), name);
    // Another user's folder, or one whose owner is just being written: not ours to judge.
    const owner = await readPidFile(join(folder, OWNER_FILE)).catch(() => undefined);
    if (owner === undefined || isRunning(owner)) continue;
    await endLeftOverPostgres(folder);
    await rm(folder, { recursive: true, force: true });
  }
}
