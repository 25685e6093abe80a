// A database with the project's schema.
import { Client } from "pg";
import type { Postgres } from "../../src/demo/postgres.ts";
import { migrate, MIGRATIONS_DIR } from "../../src/store/migrate.ts";

/** Creates and migrates a database; returns its URL. */
export async function migratedDatabase(postgres: Postgres, name: string): Promise<string> {
  await postgres.createDatabase(name);
  const url = postgres.url(name);
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    await migrate(client, MIGRATIONS_DIR);
  } finally {
    await client.end();
  }
  return url;
}
