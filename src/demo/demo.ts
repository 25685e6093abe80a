// npm start: a whole storage node on one machine. A real PostgreSQL, a simulated kernel with three
// NVMe disks, a simulated SPDK target and the agent, each as a process of its own, under a folder
// that a second start continues from. What a killed run left running is adopted or ended.
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import { Client } from "pg";
import type { Io } from "../cli/cli.ts";
import { ConfigError, EXIT_CONFIG, readConfig } from "../config.ts";
import { MIGRATIONS_DIR } from "../cli/serve.ts";
import { buildKernelTree } from "../sim/kernel/build-tree.ts";
import { migrate, MigrationFault } from "../store/migrate.ts";
import { waitUntilReady } from "./agent-ready.ts";
import { cacheFolder } from "./cache-folder.ts";
import { openDemoDatabase } from "./database.ts";
import { DEMO_DISKS, kernelSpec, targetDisks } from "./demo-disks.ts";
import { claimFolder } from "./folder-claim.ts";
import { watchForeground } from "./foreground.ts";
import { guide } from "./guide.ts";
import { freeAddress, freeHttpAddress } from "./listen-address.ts";
import { PostgresUnsupported } from "./postgres-runtime.ts";
import { endLeftOverProcess, superviseProcess } from "./processes.ts";
import { socketFolder } from "./socket-folder.ts";

const USAGE = `usage: storage-node demo [--state DIR]

  --state DIR   keep everything there instead of in the user's cache folder
  --help

  STORAGE_NODE_LISTEN=HOST:PORT (127.0.0.1:50051) and the other settings of "serve" are passed on.`;

const MAIN = fileURLToPath(new URL("../main.ts", import.meta.url));
const AGENT = fileURLToPath(new URL("../cli/demo-agent.ts", import.meta.url));
const READY_LIMIT_MS = 60_000;
const EXIT_USAGE = 64;
const EXIT_FAILED = 1;
const NODE_FLAGS = ["--disable-warning=ExperimentalWarning"];

/** Runs until the signal, or until nobody is in front of it any more. */
export async function demo(args: readonly string[], io: Io): Promise<number> {
  let stateDir: string | undefined;
  try {
    const options = { state: { type: "string" }, help: { type: "boolean" } } as const;
    const { values } = parseArgs({ args: [...args], options });
    if (values.help === true) {
      io.stdout(USAGE);
      return 0;
    }
    stateDir = values.state;
  } catch (error) {
    io.stderr(`${reasonOf(error)}\n\n${USAGE}`);
    return EXIT_USAGE;
  }
  using foreground = watchForeground();
  const signal = AbortSignal.any([io.signal, foreground.signal]);
  try {
    await runDemo(stateDir, { ...io, signal });
    return 0;
  } catch (error) {
    if (signal.aborted) return 0;
    io.stderr(`storage-node demo: ${reasonOf(error)}`);
    if (!(error instanceof ConfigError)) return EXIT_FAILED;
    for (const fault of error.faults) io.stderr(`  ${fault}`);
    return EXIT_CONFIG;
  }
}

async function runDemo(chosenDir: string | undefined, io: Io): Promise<void> {
  const { signal, stdout, stderr } = io;
  const stateDir = await prepareFolder(chosenDir, io);
  await using stack = new AsyncDisposableStack();
  const claim = stack.use(await claimFolder(stateDir, { signal }));
  const parts = { stateDir, root: join(stateDir, "kernel"), socket: await spdkSocket(stateDir) };
  const wanted = readConfig(
    agentEnv(io, { ...parts, databaseUrl: "postgresql://", listen: "", http: "" }),
  );
  // A left-over agent first: it holds the port, and would go to work on whatever is started here.
  for (const name of ["agent", "target"]) await endLeftOverProcess({ name, stateDir });
  const listen = await freeAddress(wanted.listen);
  const http = await freeHttpAddress(
    wanted.httpListen,
    (io.env["STORAGE_NODE_HTTP_LISTEN"] ?? "") !== "",
  );
  claim.tell({ listen });
  stdout(`state in ${stateDir}`);

  const database = stack.use(
    await openDemoDatabase({
      stateDir: join(stateDir, "postgres"),
      env: io.env,
      signal,
      report: stderr,
    }),
  );
  await bringUpToDate(database.url, signal);
  stdout(`database   ${database.description}`);

  await buildKernelTree(parts.root, kernelSpec());
  const disksFile = join(stateDir, "disks.json");
  await writeFile(disksFile, JSON.stringify(targetDisks(), undefined, 2));
  const target = stack.use(
    await superviseProcess({
      name: "target",
      args: [...NODE_FLAGS, MAIN, "sim", ...simArgs({ ...parts, disksFile })],
      env: io.env,
      stateDir,
      report: stderr,
    }),
  );
  stdout(`target     pid ${target.pid}  ${parts.socket}  (simulated SPDK)`);

  const agent = stack.use(
    await superviseProcess({
      name: "agent",
      args: [...NODE_FLAGS, AGENT],
      env: agentEnv(io, { ...parts, databaseUrl: database.url, listen, http }),
      stateDir,
      report: stderr,
    }),
  );
  stdout(`agent      pid ${agent.pid}  ${listen}`);
  if (http !== "off") stdout(`metrics    http://${http}/metrics`);
  const failure = Promise.race([agent.failure, target.failure]);
  const limit = AbortSignal.any([signal, AbortSignal.timeout(READY_LIMIT_MS)]);
  const disks = await orFailure(waitUntilReady(listen, DEMO_DISKS.length, limit), failure);
  if (!signal.aborted) {
    stdout(guide({ listen, disks, socket: parts.socket, stateDir }));
    await orFailure(aborted(signal), failure);
  }
  stdout("stopping");
}

/** The folder of this demo, made if missing, and passable for the user PostgreSQL runs as. */
async function prepareFolder(chosen: string | undefined, io: Io): Promise<string> {
  const stateDir = chosen === undefined ? join(cacheFolder(io.env), "demo") : resolve(chosen);
  const made = await mkdir(stateDir, { recursive: true });
  // Set, not left to the umask. A folder that somebody else made keeps the mode they gave it.
  if (made === undefined && chosen === undefined) await chmod(stateDir, 0o755);
  if (made !== undefined) {
    for (let folder = stateDir; folder.startsWith(made); folder = dirname(folder)) {
      await chmod(folder, 0o755);
    }
  }
  return stateDir;
}

async function spdkSocket(stateDir: string): Promise<string> {
  const socketName = "spdk.sock";
  const folder = await socketFolder({
    wanted: stateDir,
    socketName,
    note: join(stateDir, "socket-folder"),
    ownerUid: process.getuid?.() ?? 0,
  });
  return join(folder, socketName);
}

type Parts = { readonly stateDir: string; readonly root: string; readonly socket: string };

function simArgs({ stateDir, root, socket, disksFile }: Parts & { readonly disksFile: string }) {
  const state = join(stateDir, "target");
  return ["--socket", socket, "--disks", disksFile, "--state", state, "--root", root, "--strict"];
}

/** What the user set is passed on, but for where things are. */
function agentEnv(
  io: Io,
  parts: Parts & { readonly databaseUrl: string; readonly listen: string; readonly http: string },
): Readonly<Record<string, string | undefined>> {
  return {
    STORAGE_NODE_ID: "demo",
    STORAGE_NODE_FLEET: "demo",
    STORAGE_NODE_DISK_POLICY: "auto",
    STORAGE_NODE_DISK_ALLOW: "model:*",
    STORAGE_NODE_OVERCOMMIT: "4",
    ...io.env,
    ...(parts.listen === "" ? {} : { STORAGE_NODE_LISTEN: parts.listen }),
    ...(parts.http === "" ? {} : { STORAGE_NODE_HTTP_LISTEN: parts.http }),
    STORAGE_NODE_ROOT: parts.root,
    STORAGE_NODE_STATE_DIR: join(parts.stateDir, "agent-state"),
    STORAGE_NODE_SPDK_SOCKET: parts.socket,
    DATABASE_URL: parts.databaseUrl,
  };
}

async function bringUpToDate(url: string, signal: AbortSignal): Promise<void> {
  const client = new Client({ connectionString: url });
  // A connection lost in between is reported by the statement that notices.
  client.on("error", () => undefined);
  try {
    await client.connect();
    await migrate(client, MIGRATIONS_DIR, { signal });
  } catch (cause) {
    const elsewhere = cause instanceof MigrationFault ? " (--state DIR begins anew elsewhere)" : "";
    throw new Error(`the database cannot be brought up to date${elsewhere}`, { cause });
  } finally {
    await client.end().catch(() => undefined);
  }
}

async function orFailure<T>(work: Promise<T>, failure: Promise<Error>): Promise<T> {
  const failed = failure.then((error) => Promise.reject(error));
  return await Promise.race([work, failed]);
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/** For people, causes included; several attempts at one address say why each failed. */
function reasonOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(reasonOf).join("; ");
  if (!(error instanceof Error)) return String(error);
  const { message, cause } = error;
  // Says all that matters, and ends with what to do.
  if (error instanceof PostgresUnsupported) return message;
  if (cause === undefined || message.includes(reasonOf(cause))) return message;
  return `${message}: ${reasonOf(cause)}`;
}
