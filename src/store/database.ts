// The connections to PostgreSQL: int8 as bigint, time limits for all calls, and the one place that
// decides whether an error means an unreachable database or a wrong statement.
import { Pool, types, type PoolClient } from "pg";
import type { Logger } from "pino";
import { NO_INSTRUMENTS, type Instruments } from "../telemetry/instruments.ts";
import { watchedSql, type Sql } from "./sql.ts";
import {
  DATABASE_CONNECTIONS,
  DATABASE_CONNECT_MS,
  DATABASE_LOCK_MS,
  DATABASE_QUERY_MS,
  DATABASE_STATEMENT_MS,
  LEASE_TERM_MS,
  stallMs,
} from "../limits.ts";

const INT8_OID = 20;

/** Parses int8 as bigint, for this pool only: the type parsers of the process are not changed. */
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
  /** Calls listener when a connection broke while nothing used it: the database may be gone. */
  onConnectionLost(listener: () => void): void;
  [Symbol.asyncDispose](): Promise<void>;
};

export type DatabaseOptions = {
  readonly url: string;
  readonly log: Logger;
  /** The server ends a transaction that is idle for that many ms, and releases its locks. */
  readonly stallMs?: number;
  readonly instruments?: Instruments;
};

export function openDatabase(options: DatabaseOptions): Database {
  const { instruments = NO_INSTRUMENTS } = options;
  const pool = new Pool({
    connectionString: options.url,
    max: DATABASE_CONNECTIONS,
    // One connection stays open: it breaks at once when the database dies.
    min: 1,
    connectionTimeoutMillis: DATABASE_CONNECT_MS,
    statement_timeout: DATABASE_STATEMENT_MS,
    lock_timeout: DATABASE_LOCK_MS,
    query_timeout: DATABASE_QUERY_MS,
    // An agent that is stopped within a transaction must not keep its successor from the lease.
    idle_in_transaction_session_timeout: options.stallMs ?? stallMs(LEASE_TERM_MS),
    application_name: "storage-node",
    types: exactTypes,
  });
  // The pool replaces a broken idle connection at the next use; without a listener the event
  // throws.
  const lost = new Set<() => void>();
  pool.on("error", (error) => {
    options.log.debug({ err: error }, "idle database connection lost");
    for (const listener of lost) listener();
  });
  // A connection that breaks while in use rejects its query; pg emits an error event as well.
  pool.on("connect", (client) => client.on("error", () => {}));
  return {
    pool,
    onConnectionLost: (listener) => void lost.add(listener),
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
    // A connection whose rollback fails is closed, which ends the transaction on the server.
    await sql.query("rollback").catch((reason: unknown) => {
      broken = reason instanceof Error ? reason : new Error(String(reason));
    });
    throw error;
  } finally {
    client.release(broken);
  }
}

/** A connection could not be made: refused, no such database, wrong password or another reason. */
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
 * Whether PostgreSQL has cancelled the statement as it waited too long, which is for a lock in all that the
 * agent does: lock timeout (55P03), statement timeout (57014), deadlock (40P01). The database was reached.
 */
export function isLockedOut(error: unknown): boolean {
  return error instanceof Error && "code" in error && LOCKED_OUT.has(error.code);
}

const LOCKED_OUT: ReadonlySet<unknown> = new Set(["55P03", "57014", "40P01"]);

/**
 * Whether an error means that the database cannot be used now, rather than that a statement is
 * wrong, by its SQLSTATE or system error code: connection exceptions (08), operator intervention
 * and start-up (57P), too many connections (53300), disk full or out of memory (53), read-only
 * standby (25006), idle-in-transaction timeout (25P03), or that a lock keeps it waiting.
 */
export function isDatabaseDown(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if (error instanceof DatabaseUnreachable || isLockedOut(error)) return true;
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
