// Whether the database can be reached and has the schema of this program.
import { Client } from "pg";
import type { SetupCheck } from "../explain/setup.ts";
import { DATABASE_CONNECT_MS, DATABASE_QUERY_MS } from "../limits.ts";
import { MIGRATIONS_DIR, schemaState, type SchemaState } from "../store/migrate.ts";

const name = "database";

export async function databaseCheck(url: string): Promise<SetupCheck> {
  const client = new Client({
    connectionString: url,
    connectionTimeoutMillis: DATABASE_CONNECT_MS,
    query_timeout: DATABASE_QUERY_MS,
  });
  // A connection that breaks rejects the query; pg emits an error event as well.
  client.on("error", () => {});
  try {
    await client.connect();
    return { name, ...verdictOf(await schemaState(client, MIGRATIONS_DIR)) };
  } catch (error) {
    const found = error instanceof Error ? error.message : String(error);
    return { name, verdict: "MISSING", found, cure: "start PostgreSQL, or correct DATABASE_URL" };
  } finally {
    await client.end().catch(() => {});
  }
}

function verdictOf(schema: SchemaState): Omit<SetupCheck, "name"> {
  switch (schema.kind) {
    case "current":
      return { verdict: "OK", found: "it answers, and its schema is current", cure: "" };
    case "older": {
      const found = `its schema lacks ${schema.missing.join(", ")}`;
      return { verdict: "MISSING", found, cure: "storage-node migrate, once for the fleet" };
    }
    case "newer": {
      const found = `its schema is newer than this program: ${schema.unknown.join(", ")}`;
      return { verdict: "MISSING", found, cure: "install the release of the rest of the fleet" };
    }
    case "edited": {
      const found = `migration ${schema.name} is not the one that ran: ${schema.reason}`;
      return {
        verdict: "MISSING",
        found,
        cure: "install the release that the schema was made with",
      };
    }
  }
}
