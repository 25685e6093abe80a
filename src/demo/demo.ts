// Runs a whole storage node on one machine: a real PostgreSQL, a simulated SPDK target and the
// agent, each as a process of its own, and a simulated kernel with three NVMe disks. All state is
// in one folder, from which the next start continues. A start adopts the PostgreSQL server that a
// killed demo left running, and ends its agent and target.
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { Client } from "pg";
import { readConfig } from "../config.ts";
import { migrate, MIGRATIONS_DIR, MigrationFault } from "../store/migrate.ts";
import { readiness, waitUntilReady } from "./agent-ready.ts";
import { cacheFolder } from "./cache-folder.ts";
import { openDemoDatabase } from "./database.ts";
import { targetDisks } from "./demo-disks.ts";
import { claimFolder } from "./folder-claim.ts";
import { guide } from "./guide.ts";
import { freeAddress, freeHttpAddress } from "./listen-address.ts";
import { chooseMachine } from "./machine-file.ts";
import { endLeftOverProcess, type SupervisedProcess, superviseProcess } from "./processes.ts";
import { socketFolder } from "./socket-folder.ts";

const READY_LIMIT_MS = 60_000;
const NODE_FLAGS = ["--disable-warning=ExperimentalWarning"];

export type DemoOptions = {
  /** Undefined: a folder in the user's cache folder. */
  readonly stateDir: string | undefined;
  /** A file that describes the machine; undefined: one with three blank drives, which policy takes. */
  readonly machineFile?: string | undefined;
  readonly env: Environment;
  readonly signal: AbortSignal;
  readonly stdout: (text: string) => void;
  readonly stderr: (text: string) => void;
  /** Arguments for Node to run the agent with the simulated kernel. */
  readonly agentArgs: readonly string[];
  /** Arguments for Node to run the simulated target; the options of `sim` are appended. */
  readonly targetArgs: readonly string[];
};

type Environment = Readonly<Record<string, string | undefined>>;

/** Runs until the signal aborts. Throws if a part cannot be started or cannot be kept running. */
export async function runDemo(options: DemoOptions): Promise<void> {
  const { signal, stdout, stderr, machineFile } = options;
  const machine = await chooseMachine(machineFile);
  const env: Environment = { STORAGE_NODE_DISK_POLICY: machine.policy, ...options.env };
  const stateDir = await prepareFolder(options.stateDir, env);
  await using stack = new AsyncDisposableStack();
  const claim = stack.use(await claimFolder(stateDir, { signal }));
  const parts = { stateDir, root: join(stateDir, "kernel"), socket: await spdkSocket(stateDir) };
  const wanted = readConfig(
    agentEnv(env, { ...parts, databaseUrl: "postgresql://", listen: "", http: "" }),
  );
  // End a left-over agent first: it uses the port, and would change the target that is started
  // below.
  for (const name of ["agent", "target"]) await endLeftOverProcess({ name, stateDir });
  const listen = await freeAddress(wanted.listen);
  const http = await freeHttpAddress(
    wanted.httpListen,
    (env["STORAGE_NODE_HTTP_LISTEN"] ?? "") !== "",
  );
  claim.writeNote({ listen });
  stdout(`state in ${stateDir}`);

  const database = stack.use(
    await openDemoDatabase({
      stateDir: join(stateDir, "postgres"),
      env,
      signal,
      report: stderr,
    }),
  );
  await bringUpToDate(database.url, signal);
  stdout(`database   ${database.description}`);

  await machine.boot(parts.root);
  const disksFile = join(stateDir, "disks.json");
  await writeFile(disksFile, JSON.stringify(targetDisks(machine.spec), undefined, 2));
  const target = stack.use(
    await superviseProcess({
      name: "target",
      args: [...NODE_FLAGS, ...options.targetArgs, ...simArgs({ ...parts, disksFile })],
      env,
      stateDir,
      report: stderr,
    }),
  );
  stdout(`target     pid ${target.pid}  ${parts.socket}  (simulated SPDK)`);

  const agent = stack.use(
    await superviseProcess({
      name: "agent",
      args: [...NODE_FLAGS, ...options.agentArgs],
      env: agentEnv(env, { ...parts, databaseUrl: database.url, listen, http }),
      stateDir,
      report: stderr,
    }),
  );
  stdout(`agent      pid ${agent.pid}  ${listen}`);
  const tls = (env["STORAGE_NODE_TLS_CERT"] ?? "") !== "";
  if (http !== "off") stdout(`metrics    ${tls ? "https" : "http"}://${http}/metrics`);
  const failed = firstFailure([agent, target]);
  const ended = AbortSignal.any([signal, failed]);
  const limit = AbortSignal.any([ended, AbortSignal.timeout(READY_LIMIT_MS)]);
  const api = apiSocket(env, parts.socket);
  const isReady = readiness(machine.spec, env["STORAGE_NODE_DISK_POLICY"]);
  const disks = await waitUntilReady(api, isReady, limit);
  if (!ended.aborted) {
    const { socket } = parts;
    const control = controlSocket(socket);
    stdout(guide({ listen, tls, disks, stateDir, socket, control, api }));
    await aborted(ended);
  }
  failed.throwIfAborted();
  stdout("stopping");
}

/** Returns the state folder. Creates it if missing, with modes that let PostgreSQL's user pass. */
async function prepareFolder(chosen: string | undefined, env: Environment): Promise<string> {
  const stateDir = chosen === undefined ? join(cacheFolder(env), "demo") : resolve(chosen);
  const made = await mkdir(stateDir, { recursive: true });
  // Set the mode whatever the umask is. A folder of --state that exists already keeps its mode.
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

/** Beside the target's JSON-RPC socket, with a name that is no longer than that one's. */
function controlSocket(socket: string): string {
  return join(dirname(socket), "ctl.sock");
}

/** The agent's, in the same folder unless the user wants it elsewhere. */
function apiSocket(env: Environment, socket: string): string {
  const chosen = env["STORAGE_NODE_SOCKET"] ?? "";
  return chosen === "" ? join(dirname(socket), "api.sock") : chosen;
}

type Parts = { readonly stateDir: string; readonly root: string; readonly socket: string };

function simArgs({ stateDir, root, socket, disksFile }: Parts & { readonly disksFile: string }) {
  const places = ["--socket", socket, "--control", controlSocket(socket)];
  const state = ["--disks", disksFile, "--state", join(stateDir, "target"), "--root", root];
  return [...places, ...state, "--strict"];
}

/**
 * The user's environment over the demo's defaults, except for the addresses and paths of its parts.
 */
function agentEnv(
  env: Environment,
  parts: Parts & { readonly databaseUrl: string; readonly listen: string; readonly http: string },
): Readonly<Record<string, string | undefined>> {
  return {
    STORAGE_NODE_ID: "demo",
    STORAGE_NODE_FLEET: "demo",
    STORAGE_NODE_DISK_SETTLE: "0",
    STORAGE_NODE_DISK_ALLOW: "model:*",
    STORAGE_NODE_OVERCOMMIT: "4",
    ...env,
    ...(parts.listen === "" ? {} : { STORAGE_NODE_LISTEN: parts.listen }),
    ...(parts.http === "" ? {} : { STORAGE_NODE_HTTP_LISTEN: parts.http }),
    STORAGE_NODE_ROOT: parts.root,
    STORAGE_NODE_STATE_DIR: join(parts.stateDir, "agent-state"),
    STORAGE_NODE_SPDK_SOCKET: parts.socket,
    STORAGE_NODE_SOCKET: apiSocket(env, parts.socket),
    DATABASE_URL: parts.databaseUrl,
  };
}

async function bringUpToDate(url: string, signal: AbortSignal): Promise<void> {
  const client = new Client({ connectionString: url });
  // The next statement throws if the connection is lost; without a listener the event would end
  // Node.
  client.on("error", () => undefined);
  try {
    await client.connect();
    await migrate(client, MIGRATIONS_DIR, { signal });
  } catch (cause) {
    const elsewhere =
      cause instanceof MigrationFault
        ? " (--state DIR starts with an empty database elsewhere)"
        : "";
    throw new Error(`the database cannot be brought up to date${elsewhere}`, { cause });
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** Aborts with the error of the first part that cannot be kept running. */
function firstFailure(parts: readonly SupervisedProcess[]): AbortSignal {
  const failed = new AbortController();
  const abort = (error: unknown) => failed.abort(error);
  Promise.race(parts.map(({ failure }) => failure)).then(abort, abort);
  return failed.signal;
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
