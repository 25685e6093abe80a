// Runs the demo as `npm start` does, as a child process over a temporary folder. Each folder names
// its owner process, so that the next run can stop and remove what a killed run left, and nothing
// else.
import { credentials } from "@grpc/grpc-js";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { chmod, lstat, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { endLeftOverPostgres } from "../../src/demo/postgres.ts";
import {
  identityOf,
  isRunning,
  readPidFile,
  writePidFile,
} from "../../src/demo/process-identity.ts";
import { endLeftOverProcess } from "../../src/demo/processes.ts";
import { StorageNodeClient } from "../../src/gen/storagenode/v1/storage_node.ts";
import { until } from "./agent.ts";

const MAIN = fileURLToPath(new URL("../../src/main.ts", import.meta.url));
const LAUNCHER = fileURLToPath(new URL("../../bin/storage-node.js", import.meta.url));
const PREFIX = "sn-test-demo-";
const OWNER_FILE = "owner.pid";
/** Below the time limit of a test, so that what the demo said until then is reported. */
const LIMIT_MS = 45_000;

export type DemoFolder = AsyncDisposable & {
  readonly path: string;
  /** Starts a demo, with or without the npm launcher; resolves when it has printed its guide. */
  readonly start: (options?: StartOptions) => Promise<RunningDemo>;
  /** Runs a demo that is expected to end by itself. */
  readonly run: (env?: Env) => Promise<{ readonly code: number | null; readonly said: string }>;
  /** Command lines of all processes with this folder in their arguments or environment. */
  readonly processes: () => readonly string[];
  /** The current pid of a part of the demo. */
  readonly pidOf: (part: Part) => Promise<number>;
};

export type Part = "agent" | "target" | "database";

export type StartOptions = {
  readonly launcher?: boolean;
  /** Path of the file for --machine. */
  readonly machine?: string;
};

export type RunningDemo = {
  readonly address: string;
  readonly client: StorageNodeClient;
  /** Output on stdout and stderr so far. */
  readonly said: () => string;
  /**
   * Sends the signal to the demo or its launcher. Resolves once every process has closed the output
   * streams, with the exit code; null if the signal killed the process.
   */
  readonly end: (signal: NodeJS.Signals) => Promise<number | null>;
};

type Env = Readonly<Record<string, string>>;

/** Creates an empty folder; disposing stops all processes of the demo in it and removes it. */
export async function demoFolder(): Promise<DemoFolder> {
  await removeLeftOverFolders();
  const path = await mkdtemp(join(tmpdir(), PREFIX));
  const self = identityOf(process.pid);
  if (self !== undefined) writePidFile(join(path, OWNER_FILE), self);
  // PostgreSQL may run as another user, who must be able to enter the folder.
  await chmod(path, 0o711);
  const clients: StorageNodeClient[] = [];
  return {
    path,
    start: async (options) => {
      const demo = await startDemo(path, options);
      clients.push(demo.client);
      return demo;
    },
    run: async (env) => {
      const { ended, said } = spawnDemo(path, [MAIN], { env });
      return { code: await ended(), said: said() };
    },
    processes: () => processesOf(path),
    pidOf: async (part) => await pidOf(path, part),
    [Symbol.asyncDispose]: async () => {
      for (const client of clients) client.close();
      await remove(path);
    },
  };
}

async function startDemo(
  path: string,
  { launcher = false, machine }: StartOptions = {},
): Promise<RunningDemo> {
  const { child, ended, said } = spawnDemo(path, [launcher ? LAUNCHER : MAIN], {
    args: machine === undefined ? [] : ["--machine", machine],
  });
  await until(
    "the demo has printed its guide",
    () => said().includes("Ctrl-C stops everything") || child.exitCode !== null,
    LIMIT_MS,
  ).catch((cause: unknown) => {
    throw new Error(`it said: ${said()}`, { cause });
  });
  const address = /^agent +pid \d+ +(\S+)$/m.exec(said())?.[1];
  if (address === undefined) throw new Error(`the demo did not start: ${said()}`);
  return {
    address,
    client: new StorageNodeClient(address, credentials.createInsecure()),
    said,
    end: async (signal) => {
      child.kill(signal);
      return await ended();
    },
  };
}

function spawnDemo(
  path: string,
  program: readonly string[],
  { env = {}, args = [] }: { readonly env?: Env | undefined; readonly args?: readonly string[] },
) {
  const flags = ["--disable-warning=ExperimentalWarning"];
  // Do not pass on the npm run that executes these tests.
  const { npm_lifecycle_event: _npm, ...inherited } = process.env;
  const child = spawn(process.execPath, [...flags, ...program, "demo", "--state", path, ...args], {
    env: {
      ...inherited,
      STORAGE_NODE_LISTEN: "127.0.0.1:0",
      STORAGE_NODE_HTTP_LISTEN: "127.0.0.1:0",
      ...env,
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const self = child.pid === undefined ? undefined : identityOf(child.pid);
  if (self !== undefined) writePidFile(join(path, "demo.pid"), self);
  let said = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => (said += text));
  }
  const closed = once(child, "close").then(() => child.exitCode);
  const ended = async (): Promise<number | null> => {
    const late = sleep(LIMIT_MS, undefined, { ref: false }).then(() => {
      throw new Error(`it still runs (${processesOf(path).join("; ")}) and said: ${said}`);
    });
    return await Promise.race([closed, late]);
  };
  return { child, ended, said: () => said };
}

async function pidOf(path: string, part: Part): Promise<number> {
  if (part !== "database") return (await readPidFile(join(path, `${part}.pid`)))?.pid ?? 0;
  // The data folder is readable only for the user of the server and root.
  const file = await readFile(join(path, "postgres", "data", "postmaster.pid"), "utf8");
  return Number(file.split("\n")[0]);
}

/**
 * Processes with the folder in their command line or environment: every part of the demo has it.
 */
function processesOf(path: string): readonly string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      const [cmdline, environ] = [`/proc/${pid}/cmdline`, `/proc/${pid}/environ`].map(readOrEmpty);
      const uses = [cmdline, environ].some((text) => text?.includes(path));
      return uses ? [cmdline?.replaceAll("\0", " ").trim() ?? ""] : [];
    });
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // The process has ended, or belongs to another user, as the processes of PostgreSQL may.
    return "";
  }
}

/** Removes folders whose owner process has exited, and stops processes still running in them. */
async function removeLeftOverFolders(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    if (!name.startsWith(PREFIX)) continue;
    const path = join(tmpdir(), name);
    // Skip folders of other users, and folders being created or removed by another run.
    const stat = await lstat(path).catch(() => undefined);
    if (stat?.uid !== process.getuid?.()) continue;
    const owner = await readPidFile(join(path, OWNER_FILE)).catch(() => undefined);
    if (owner !== undefined && !isRunning(owner)) await remove(path);
  }
}

async function remove(path: string): Promise<void> {
  for (const name of ["demo", "agent", "target"])
    await endLeftOverProcess({ name, stateDir: path });
  await endLeftOverPostgres(join(path, "postgres"));
  const elsewhere = await readFile(join(path, "postgres", "socket-folder"), "utf8").catch(() => "");
  if (elsewhere !== "") await rm(elsewhere, { recursive: true, force: true });
  await rm(path, { recursive: true, force: true });
}
