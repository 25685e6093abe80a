// `storage-node migrate`: applies the pending schema migrations to the database.
import { Client } from "pg";
import { EXIT_CONFIG } from "../config.ts";
import { migrate, MIGRATIONS_DIR } from "../store/migrate.ts";
import { EXIT_FAILED, messageOf, type Io } from "./io.ts";

/**
 * Resolves with the exit code. One run suffices for the whole fleet: all agents share the schema.
 */
export async function migrateSchema(io: Io): Promise<number> {
  const url = io.env["DATABASE_URL"];
  if (url === undefined || url === "") {
    io.stderr("DATABASE_URL: is not set; for example postgresql://user@host/storage_node");
    return EXIT_CONFIG;
  }
  let client: Client;
  try {
    client = new Client({ connectionString: url });
  } catch (error) {
    io.stderr(`DATABASE_URL: is not a URL of PostgreSQL: ${messageOf(error)}`);
    return EXIT_CONFIG;
  }
  // Otherwise a connection that is lost between two queries ends the process.
  client.on("error", () => {});
  try {
    await client.connect();
    const { applied } = await migrate(client, MIGRATIONS_DIR, { signal: io.signal });
    io.stdout(applied.length === 0 ? "schema is up to date" : `applied ${applied.join(", ")}`);
    return 0;
  } catch (error) {
    io.stderr(`storage-node migrate: ${messageOf(error)}`);
    return EXIT_FAILED;
  } finally {
    await client.end().catch(() => {});
  }
}
