// The connection to PostgreSQL: exact 64-bit numbers, bounded waits, and one place that knows
// whether an error means "the database is away" or "the statement is wrong".
import { Pool, types, type PoolClient } from "pg";
import type { Logger } from "pino";
import { NO_INSTRUMENTS, type Instruments } from "../telemetry/instruments.ts";
import { watchedSql, type Sql } from "./sql.ts";

/** The agent needs few connections: one writer, readers, one listener. */
const MAX_CONNECTIONS = 4;
const CONNECT_TIMEOUT_MS = 3_000;
const STATEMENT_TIMEOUT_MS = 15_000;
/** On the client's side too: a frozen server answers nothing, not even the end of a statement. */
const QUERY_TIMEOUT_MS = 20_000;
const STALL_MS = 10_000;

const INT8_OID = 20;

/** int8 as bigint, for this pool only; the registry of the process stays as it is. */
const exactTypes = {
  getTypeParser(oid: number, format?: "text" | "binary") {
    if (oid === INT8_OID && format !== "binary") return (text: string) => BigInt(text);
    return format === "binary" ? types.getTypeParser(oid, "binary") : types.getTypeParser(oid);
  },
};

export type Database = {
  readonly pool: Pool;
  /** Runs act in one transaction on one connection; throws what act or the commit threw. */
  transaction<T>(act: (sql: Sql) => Promise<T>): Promise<T>;
  [Symbol.asyncDispose](): Promise<void>;
};

export type DatabaseOptions = {
  readonly url: string;
  readonly log: Logger;
  /** A transaction that stands still for that long is ended by the server, and its locks with it. */
  readonly stallMs?: number;
  readonly instruments?: Instruments;
};

export function openDatabase(options: DatabaseOptions): Database {
  const { instruments = NO_INSTRUMENTS } = options;
  const pool = new Pool({
    connectionString: options.url,
    max: MAX_CONNECTIONS,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    statement_timeout: STATEMENT_TIMEOUT_MS,
    query_timeout: QUERY_TIMEOUT_MS,
    // An agent that is stopped in the middle of one must not keep its successor from the lease.
    idle_in_transaction_session_timeout: options.stallMs ?? STALL_MS,
    application_name: "storage-node",
    types: exactTypes,
  });
  // An idle connection that breaks is replaced at the next use; without a listener it would throw.
  pool.on("error", (error) => options.log.debug({ err: error }, "idle database connection lost"));
  // One that breaks while it is used tells its query; pg raises it as an event besides.
  pool.on("connect", (client) => client.on("error", () => {}));
  return {
    pool,
    transaction: (act) => inTransaction(pool, instruments, act),
    [Symbol.asyncDispose]: () => pool.end(),
  };
}

async function inTransaction<T>(
  pool: Pool,
  instruments: Instruments,
  act: (sql: Sql) => Promise<T>,
): Promise<T> {
  const client = await connect(pool);
  const sql = watchedSql(client, instruments);
  let broken: Error | undefined;
  try {
    await sql.query("begin");
    const result = await act(sql);
    await sql.query("commit");
    return result;
  } catch (error) {
    // A connection whose rollback fails is thrown away, and with it the transaction.
    await sql.query("rollback").catch((reason: unknown) => {
      broken = reason instanceof Error ? reason : new Error(String(reason));
    });
    throw error;
  } finally {
    client.release(broken);
  }
}

/** No connection could be had, for whatever reason: refused, no such database, wrong password. */
class DatabaseUnreachable extends Error {
  constructor(cause: unknown) {
    super(cause instanceof Error ? cause.message : "no connection to the database", { cause });
    this.name = "DatabaseUnreachable";
  }
}

/** A connection of the pool. Throws DatabaseUnreachable. */
export async function connect(pool: Pool): Promise<PoolClient> {
  try {
    return await pool.connect();
  } catch (error) {
    throw new DatabaseUnreachable(error);
  }
}

/**
 * SQLSTATE classes and system errors of a database that cannot be reached now, rather than of a
 * statement that is wrong: connection exceptions (08), operator intervention and start-up (57P),
 * too many connections (53300), disk full or out of memory (53), read-only standby (25006), a
 * transaction that stood still for too long (25P03).
 */
export function isDatabaseDown(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if (error instanceof DatabaseUnreachable) return true;
  const code = "code" in error && typeof error.code === "string" ? error.code : "";
  if (/^(08|57P|53)/.test(code) || ["25006", "25P03"].includes(code)) return true;
  if (
    ["ECONNREFUSED", "ENOENT", "ECONNRESET", "EPIPE", "ETIMEDOUT", "ENOTFOUND", "EACCES"].includes(
      code,
    )
  ) {
    return true;
  }
  return /timeout|terminated|not queryable|ended unexpectedly/i.test(error.message);
}
