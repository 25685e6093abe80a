// npm start: a whole storage node on one machine. A real PostgreSQL, a simulated kernel with three
// NVMe disks, a simulated SPDK target and the agent, each as a process of its own, under a folder
// that a second start continues from. What a killed run left running is adopted or ended.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import { Client } from "pg";
import type { Io } from "../cli.ts";
import { MIGRATIONS_DIR } from "../serve.ts";
import { buildKernelTree } from "../sim/kernel/build-tree.ts";
import { migrate } from "../store/migrate.ts";
import { waitUntilReady } from "./agent-ready.ts";
import { cacheFolder } from "./cache-folder.ts";
import { DEMO_DISKS, kernelSpec, targetDisks } from "./demo-disks.ts";
import { guide } from "./guide.ts";
import { startPostgres } from "./postgres.ts";
import { identityOf, isRunning, readPidFile, writePidFile } from "./process-identity.ts";
import { superviseProcess, type SupervisedProcess } from "./processes.ts";

const MAIN = fileURLToPath(new URL("../main.ts", import.meta.url));
const AGENT = fileURLToPath(new URL("./agent-main.ts", import.meta.url));
const READY_LIMIT_MS = 60_000;
const EXIT_USAGE = 64;
const EXIT_FAILED = 1;
const NODE_FLAGS = ["--disable-warning=ExperimentalWarning"];

/** Runs until the signal; `--state DIR` keeps everything there instead of the cache folder. */
export async function demo(args: readonly string[], io: Io): Promise<number> {
  let stateDir: string;
  try {
    const { values } = parseArgs({ args: [...args], options: { state: { type: "string" } } });
    stateDir = values.state ?? join(cacheFolder(io.env), "demo");
  } catch (error) {
    io.stderr(`storage-node demo: ${reasonOf(error)}`);
    return EXIT_USAGE;
  }
  try {
    await runDemo(stateDir, io);
    return 0;
  } catch (error) {
    if (io.signal.aborted) return 0;
    io.stderr(`storage-node demo: ${reasonOf(error)}`);
    return EXIT_FAILED;
  }
}

async function runDemo(stateDir: string, io: Io): Promise<void> {
  const { signal, stdout, stderr } = io;
  await mkdir(stateDir, { recursive: true, mode: 0o755 });
  await claimFolder(stateDir);
  await using stack = new AsyncDisposableStack();
  stdout(`state in ${stateDir}`);
  const postgres = stack.use(await startPostgres({ stateDir: join(stateDir, "postgres"), signal }));
  await postgres.createDatabase("storage_node");
  const databaseUrl = postgres.url("storage_node");
  await bringUpToDate(databaseUrl, signal);
  stdout(`database   pid ${postgres.pid}  ${databaseUrl}`);

  const root = join(stateDir, "kernel");
  await buildKernelTree(root, kernelSpec());
  const socket = join(stateDir, "spdk.sock");
  const target = stack.use(await startTarget({ stateDir, root, socket, io }));
  stdout(`target     pid ${target.pid}  ${socket}  (simulated SPDK)`);

  const listen = io.env["STORAGE_NODE_LISTEN"] ?? "127.0.0.1:50051";
  const agent = stack.use(
    await superviseProcess({
      name: "agent",
      args: [...NODE_FLAGS, AGENT],
      env: {
        STORAGE_NODE_ID: "demo",
        STORAGE_NODE_FLEET: "demo",
        STORAGE_NODE_DISK_POLICY: "auto",
        STORAGE_NODE_DISK_ALLOW: "model:*",
        STORAGE_NODE_OVERCOMMIT: "4",
        ...io.env,
        STORAGE_NODE_LISTEN: listen,
        STORAGE_NODE_ROOT: root,
        STORAGE_NODE_STATE_DIR: join(stateDir, "agent-state"),
        STORAGE_NODE_SPDK_SOCKET: socket,
        DATABASE_URL: databaseUrl,
      },
      stateDir,
      report: stderr,
    }),
  );
  stdout(`agent      pid ${agent.pid}  ${listen}`);
  const failure = Promise.race([agent.failure, target.failure]);
  const limit = AbortSignal.any([signal, AbortSignal.timeout(READY_LIMIT_MS)]);
  const disks = await orFailure(waitUntilReady(listen, DEMO_DISKS.length, limit), failure);
  if (signal.aborted) return;
  stdout(guide({ listen, disks, logFile: join(stateDir, "agent.log") }));
  await orFailure(aborted(signal), failure);
  stdout("stopping");
}

async function startTarget(parts: {
  readonly stateDir: string;
  readonly root: string;
  readonly socket: string;
  readonly io: Io;
}): Promise<SupervisedProcess> {
  const { stateDir, root, socket, io } = parts;
  const disksFile = join(stateDir, "disks.json");
  await writeFile(disksFile, JSON.stringify(targetDisks(), undefined, 2));
  const args = ["sim", "--socket", socket, "--disks", disksFile];
  args.push("--state", join(stateDir, "target"), "--root", root, "--strict");
  return await superviseProcess({
    name: "target",
    args: [...NODE_FLAGS, MAIN, ...args],
    env: io.env,
    stateDir,
    report: io.stderr,
  });
}

/** One demo per folder: a second one would fight over the same disks. */
async function claimFolder(stateDir: string): Promise<void> {
  const path = join(stateDir, "demo.pid");
  const other = await readPidFile(path);
  if (other !== undefined && other.pid !== process.pid && isRunning(other)) {
    throw new Error(`a demo runs already on ${stateDir} (pid ${other.pid})`);
  }
  const self = identityOf(process.pid);
  if (self !== undefined) writePidFile(path, self);
}

async function bringUpToDate(url: string, signal: AbortSignal): Promise<void> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    await migrate(client, MIGRATIONS_DIR, { signal });
  } finally {
    await client.end();
  }
}

async function orFailure<T>(work: Promise<T>, failure: Promise<Error>): Promise<T> {
  const first = await Promise.race([work, failure.then((error) => ({ failed: error }))]);
  if (typeof first === "object" && first !== null && "failed" in first) {
    if (first.failed instanceof Error) throw first.failed;
  }
  return await work;
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
