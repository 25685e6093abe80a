// Starts and stops a real PostgreSQL server for the demo and the tests, with programs from an npm
// package, and adopts the server of a killed launcher. The agent never starts a database. Committed
// rows survive kill -9 of all processes (fsync is on).
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Client } from "pg";
import { cacheFolder } from "./cache-folder.ts";
import {
  disownLockFiles,
  findPostmaster,
  type PostgresCluster,
  PORT,
  preparePostgres,
  readPostmasterFile,
  ROLE,
  SERVER_ENV,
  spawnAs,
} from "./postgres-cluster.ts";
import { postgresRuntime } from "./postgres-runtime.ts";
import {
  childrenOf,
  endProcess,
  identityOf,
  isRunning,
  type ProcessIdentity,
  signalProcess,
} from "./process-identity.ts";

export type PostgresOptions = {
  /**
   * Folder of this server alone; its data and socket folders belong to the user PostgreSQL runs as.
   */
  readonly stateDir: string;
  /** Folder for the copy of the programs; default: the user's cache folder. */
  readonly cacheDir?: string;
  /** Aborts the start: ends a server that does not answer yet. */
  readonly signal?: AbortSignal;
};

/** Limit for a start, including crash recovery, which may have to replay much WAL. */
const START_TIMEOUT_MS = 120_000;
/**
 * A server that is ready according to postmaster.pid and does not answer for this long counts as
 * hung.
 */
const ANSWER_TIMEOUT_MS = 5_000;
/** How long to retry while children of a killed postmaster still use its shared memory. */
const LEFT_OVER_TIMEOUT_MS = 15_000;
const POLL_MS = 20;
const WATCH_MS = 200;
const GONE_TIMEOUT_MS = 10_000;
const LOG_TAIL_BYTES = 2_048;
const MAX_LOG_BYTES = 16 * 1024 * 1024;

/** SIGINT: fast shutdown; SIGQUIT: immediate shutdown (recovery at the next start); SIGKILL. */
const STOP_STEPS = [
  { signal: "SIGINT", timeoutMs: 30_000 },
  { signal: "SIGQUIT", timeoutMs: 5_000 },
  { signal: "SIGKILL", timeoutMs: GONE_TIMEOUT_MS },
] as const;

/**
 * Starts the server of stateDir, or adopts the one that a killed launcher left running there, and
 * resolves once it answers. The caller must ensure one launcher per stateDir at a time. Throws
 * PostgresUnsupported if the programs cannot run here, or an Error with the end of the server's
 * log.
 */
export async function startPostgres(options: PostgresOptions): Promise<Postgres> {
  const runtime = await postgresRuntime(options.cacheDir ?? cacheFolder(process.env));
  const cluster = await preparePostgres(runtime, options.stateDir, options);
  return new Postgres(cluster, await adoptOrStart(cluster, options));
}

/** Ends the server that a killed launcher left running on stateDir, if there is one. */
export async function endLeftOverPostgres(stateDir: string): Promise<void> {
  const postmaster = await findPostmaster(join(stateDir, "data"));
  if (postmaster !== undefined) await endProcess(postmaster, STOP_STEPS);
}

type Running = { readonly identity: ProcessIdentity; readonly socketDir: string };

export class Postgres {
  readonly #cluster: PostgresCluster;
  #running: Running;

  constructor(cluster: PostgresCluster, running: Running) {
    this.#cluster = cluster;
    this.#running = running;
  }

  /** Connection URL as for DATABASE_URL, accepted by psql and pg. */
  url(database = "postgres"): string {
    return urlOf(this.#running.socketDir, database);
  }

  get pid(): number {
    return this.#running.identity.pid;
  }

  /** Path of the file that receives the server's stdout and stderr. */
  get logFile(): string {
    return this.#cluster.logFile;
  }

  /** Creates the database if it does not exist. */
  async createDatabase(name: string): Promise<void> {
    const client = new Client({ connectionString: this.url() });
    await client.connect();
    try {
      await client.query(`create database ${client.escapeIdentifier(name)}`);
    } catch (error) {
      const duplicate = error instanceof Error && "code" in error && error.code === "42P04";
      if (!duplicate) throw error;
    } finally {
      await client.end();
    }
  }

  /** Kills the postmaster and its children with SIGKILL; does not wait for their end. */
  kill9(): void {
    kill9(this.#running.identity);
  }

  /** Resolves when the running server has ended. Rejects when the signal aborts. */
  async ended(options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    const { identity } = this.#running;
    while (isRunning(identity)) await sleep(WATCH_MS, undefined, options);
  }

  /** Stops the server if it still runs, and starts it again. */
  async restart(options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    await endProcess(this.#running.identity, STOP_STEPS);
    this.#running = await adoptOrStart(this.#cluster, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await endProcess(this.#running.identity, STOP_STEPS);
  }
}

function kill9(postmaster: ProcessIdentity): void {
  // SIGSTOP first: a stopped postmaster cannot start children or react to the end of one.
  signalProcess(postmaster, "SIGSTOP");
  const pids = readdirSync("/proc").map(Number).filter(Number.isInteger);
  for (const child of childrenOf(postmaster, pids)) signalProcess(child, "SIGKILL");
  signalProcess(postmaster, "SIGKILL");
}

function urlOf(socketDir: string, database: string): string {
  const query = `host=${encodeURIComponent(socketDir)}&port=${PORT}`;
  return `postgresql://${ROLE}@/${encodeURIComponent(database)}?${query}`;
}

type StartOptions = { readonly signal?: AbortSignal };

async function adoptOrStart(cluster: PostgresCluster, options: StartOptions): Promise<Running> {
  const found = await findPostmaster(cluster.dataDir);
  if (found !== undefined) {
    if (found.socketDir === cluster.socketDir && (await answers(found, cluster, options))) {
      return { identity: found, socketDir: found.socketDir };
    }
    await endProcess(found, STOP_STEPS);
  }
  await disownLockFiles(cluster);
  const deadline = performance.now() + LEFT_OVER_TIMEOUT_MS;
  for (;;) {
    options.signal?.throwIfAborted();
    const started = await start(cluster, options);
    if (started.identity !== undefined) {
      return { identity: started.identity, socketDir: cluster.socketDir };
    }
    const leftOver = /shared memory block .* is still in use/.test(started.logTail);
    if (!leftOver || performance.now() > deadline) {
      throw new Error(`PostgreSQL did not start: ${started.logTail}`);
    }
    await sleep(POLL_MS, undefined, options);
  }
}

type Started =
  | { readonly identity: ProcessIdentity }
  | { readonly identity: undefined; readonly logTail: string };

async function start(cluster: PostgresCluster, options: StartOptions): Promise<Started> {
  const log = await open(cluster.logFile, "a", 0o600);
  try {
    if ((await log.stat()).size > MAX_LOG_BYTES) await log.truncate();
    const logStart = (await log.stat()).size;
    const identity = await launch(cluster, log.fd);
    if (identity !== undefined && (await answers(identity, cluster, options))) return { identity };
    if (identity !== undefined) await endProcess(identity, STOP_STEPS);
    return { identity: undefined, logTail: await readLogTail(cluster.logFile, logStart) };
  } finally {
    await log.close();
  }
}

/**
 * Spawns the server in a process group of its own: Ctrl-C in a terminal must reach only the
 * launcher, which stops the server last. Its output goes to a file, because the server may outlive
 * the launcher.
 */
async function launch(
  cluster: PostgresCluster,
  logFd: number,
): Promise<ProcessIdentity | undefined> {
  const settings = ["listen_addresses=", `unix_socket_directories=${cluster.socketDir}`];
  settings.push(`hba_file=${cluster.hbaFile}`, `ident_file=${cluster.identFile}`);
  settings.push(`port=${PORT}`, "unix_socket_permissions=0700", "fsync=on");
  // An agent has a few connections; tests run dozens of agents on one server.
  settings.push("max_connections=400");
  const args = ["-D", cluster.dataDir, ...settings.flatMap((setting) => ["-c", setting])];
  const child = spawn(join(cluster.runtime.binDir, "postgres"), args, {
    ...spawnAs(cluster.accounts),
    cwd: cluster.stateDir,
    env: SERVER_ENV,
    detached: true,
    stdio: ["ignore", logFd, logFd],
  });
  await once(child, "spawn");
  child.unref();
  return child.pid === undefined ? undefined : identityOf(child.pid);
}

/** Waits until the server answers; false if it ends, hangs, or is not ready in time. */
async function answers(
  identity: ProcessIdentity,
  { socketDir, dataDir }: PostgresCluster,
  options: StartOptions,
): Promise<boolean> {
  let deadline = performance.now() + START_TIMEOUT_MS;
  let wasReady = false;
  while (isRunning(identity) && performance.now() < deadline) {
    if (options.signal?.aborted === true) {
      await endProcess(identity, STOP_STEPS);
      options.signal.throwIfAborted();
    }
    // Connect only once it is ready: the server logs a line for each connection it refuses.
    const file = await readPostmasterFile(dataDir);
    const ready = file?.pid === identity.pid && file.ready;
    if (ready && (await dataDirectoryOf(socketDir)) === dataDir) return true;
    if (ready && !wasReady) deadline = performance.now() + ANSWER_TIMEOUT_MS;
    wasReady = ready;
    await sleep(POLL_MS);
  }
  return false;
}

/** Asks the server on the socket for its data folder; undefined if it does not answer. */
async function dataDirectoryOf(socketDir: string): Promise<string | undefined> {
  const client = new Client({
    connectionString: urlOf(socketDir, "postgres"),
    connectionTimeoutMillis: 5_000,
    query_timeout: 5_000,
  });
  // The next statement throws if the connection is lost; without a listener the event would end
  // Node.
  client.on("error", () => undefined);
  try {
    await client.connect();
    const { rows } = await client.query<{ data_directory: string }>("show data_directory");
    return rows[0]?.data_directory;
  } catch {
    // Not listening yet, starting up, recovering or shutting down: the caller polls.
    return undefined;
  } finally {
    await client.end().catch(() => undefined);
  }
}

async function readLogTail(logFile: string, from: number): Promise<string> {
  const log = await open(logFile, "r");
  try {
    const { size } = await log.stat();
    const start = Math.max(from, size - LOG_TAIL_BYTES);
    const { buffer, bytesRead } = await log.read(Buffer.alloc(LOG_TAIL_BYTES), 0, undefined, start);
    const text = buffer.toString("utf8", 0, bytesRead).trim();
    return text === "" ? `its log is empty (${logFile})` : text;
  } finally {
    await log.close();
  }
}
