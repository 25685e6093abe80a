// The folder of one PostgreSQL server: data, socket, log and access rules. Data and socket folders
// belong to the server's user with mode 0700, and the server listens only on that socket, so other
// users of the machine cannot connect. Files that root writes or follows (access rules, log) are
// outside the folders that it gives to the server's account, which could replace a file there by a
// symbolic link.
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  realpathSync,
} from "node:fs";
import { readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { firstClosedFolder } from "./cache-folder.ts";
import { type PostgresAccounts, postgresAccounts } from "./postgres-account.ts";
import { identityOf, type ProcessIdentity } from "./process-identity.ts";
import type { PostgresRuntime } from "./postgres-runtime.ts";
import { socketFolder } from "./socket-folder.ts";

export type PostgresCluster = {
  readonly runtime: PostgresRuntime;
  readonly accounts: PostgresAccounts;
  readonly stateDir: string;
  readonly dataDir: string;
  readonly socketDir: string;
  readonly hbaFile: string;
  readonly identFile: string;
  readonly logFile: string;
};

/**
 * The database role of the user that may connect; a superuser, because the server is for that user
 * only.
 */
export const ROLE = "postgres";
export const PORT = 5432;
const SOCKET_NAME = `.s.PGSQL.${PORT}`;
const INITDB_DIR_PREFIX = "initdb-";

/**
 * Prepares stateDir for a server: creates it if missing, and a database cluster in it if there is
 * none. An interrupted initdb leaves no cluster behind. Throws if the server's user cannot reach
 * the folder, or if it has data of another major version.
 */
export async function preparePostgres(
  runtime: PostgresRuntime,
  stateDir: string,
  options: { readonly signal?: AbortSignal } = {},
): Promise<PostgresCluster> {
  const made = mkdirSync(stateDir, { recursive: true });
  const realDir = realpathSync(stateDir);
  const dataDir = join(realDir, "data");
  const accounts = postgresAccounts(dataDir);
  openToServer(realDir, made === undefined ? realDir : realpathSync(made), accounts);
  const cluster = {
    runtime,
    accounts,
    stateDir: realDir,
    dataDir,
    socketDir: await runFolder(realDir, accounts),
    hbaFile: join(realDir, "pg_hba.conf"),
    identFile: join(realDir, "pg_ident.conf"),
    logFile: join(realDir, "postgres.log"),
  };
  await removeUnfinished(cluster);
  if (lstatSync(dataDir, { throwIfNoEntry: false }) === undefined) await initdb(cluster, options);
  refuseOtherMajor(cluster);
  await writeAccess(cluster);
  return cluster;
}

/** The whole environment of the server's programs: the same on every machine. */
export const SERVER_ENV = { LC_ALL: "C", TZ: "UTC", PATH: "/usr/bin:/bin" };

/** The user to spawn the server's programs as. */
export function spawnAs(accounts: PostgresAccounts): { uid?: number; gid?: number } {
  return accounts.server === undefined
    ? {}
    : { uid: accounts.server.uid, gid: accounts.server.gid };
}

/**
 * Sets the modes of stateDir and of the folders created above it (up to topmost), whatever the
 * umask. They stay owned by this process's user; a server with another user may pass through but
 * not list them.
 */
function openToServer(stateDir: string, topmost: string, { server }: PostgresAccounts): void {
  const mode = server === undefined ? 0o700 : 0o711;
  chmodSync(stateDir, mode);
  for (let folder = stateDir; folder !== topmost;) {
    folder = dirname(folder);
    chmodSync(folder, mode);
  }
  if (server === undefined) return;
  const closed = firstClosedFolder(stateDir);
  if (closed !== undefined) {
    throw new Error(`${closed} is closed to user ${server.name}, who runs the database`);
  }
}

/** Creates folder if missing, and makes it accessible to the server's user only (0700). */
function giveToServer(folder: string, { server }: PostgresAccounts): void {
  mkdirSync(folder, { recursive: true });
  if (server !== undefined) chownSync(folder, server.uid, server.gid);
  chmodSync(folder, 0o700);
}

/**
 * The socket's folder: in stateDir if the path is short enough, else one below the temporary
 * folder.
 */
function runFolder(stateDir: string, accounts: PostgresAccounts): Promise<string> {
  return socketFolder({
    wanted: join(stateDir, "run"),
    socketName: SOCKET_NAME,
    note: join(stateDir, "socket-folder"),
    ownerUid: accounts.server?.uid ?? accounts.client.uid,
    // The server's setting is a comma-separated list of folders, with quotes.
    forbidden: /[,"]/,
    give: (folder) => giveToServer(folder, accounts),
  });
}

async function initdb(
  cluster: PostgresCluster,
  { signal }: { readonly signal?: AbortSignal },
): Promise<void> {
  const owner = identityOf(process.pid);
  const name = `${INITDB_DIR_PREFIX}${owner?.pid}-${owner?.startTicks}`;
  const unfinished = join(cluster.stateDir, name);
  giveToServer(unfinished, cluster.accounts);
  // The builtin locale, so that text sorts the same on every machine.
  const args = ["-D", unfinished, "-U", ROLE, "-E", "UTF8", "--no-instructions"];
  args.push("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8");
  args.push("--auth-local=peer", "--auth-host=reject");
  signal?.throwIfAborted();
  const child = spawn(join(cluster.runtime.binDir, "initdb"), args, {
    ...spawnAs(cluster.accounts),
    cwd: cluster.stateDir,
    env: SERVER_ENV,
    stdio: ["ignore", "ignore", "pipe"],
  });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  const stop = () => child.kill("SIGTERM");
  signal?.addEventListener("abort", stop);
  try {
    // "close", not "exit": the server that initdb starts has the pipe open and has ended then too.
    const [code, endedBy]: unknown[] = await once(child, "close");
    signal?.throwIfAborted();
    if (code !== 0) {
      throw new Error(`initdb failed (${String(endedBy ?? code)}): ${stderr.trim()}`);
    }
    await rename(unfinished, cluster.dataDir);
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true });
    throw error;
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

/** Removes the folders of initdb runs whose launcher has ended. */
async function removeUnfinished({ stateDir }: PostgresCluster): Promise<void> {
  for (const name of await readdir(stateDir)) {
    if (!name.startsWith(INITDB_DIR_PREFIX)) continue;
    const [pid, startTicks] = name.slice(INITDB_DIR_PREFIX.length).split("-");
    if (identityOf(Number(pid))?.startTicks === startTicks) continue;
    await rm(join(stateDir, name), { recursive: true, force: true });
  }
}

function refuseOtherMajor({ dataDir, runtime }: PostgresCluster): void {
  const dataMajor = readFileSync(join(dataDir, "PG_VERSION"), "utf8").trim();
  const serverMajor = runtime.version.split(".")[0];
  if (dataMajor !== serverMajor) {
    throw new Error(
      `${dataDir} holds data of PostgreSQL ${dataMajor}, the server is ${serverMajor}`,
    );
  }
}

/**
 * Allows only the user of this process to connect: `peer` authentication (kernel credentials) with
 * a map.
 */
async function writeAccess({ hbaFile, identFile, accounts }: PostgresCluster): Promise<void> {
  const user = accounts.client.name.replaceAll('"', '""');
  const files = [
    [hbaFile, `local all ${ROLE} peer map=launcher\n`],
    [identFile, `launcher "${user}" ${ROLE}\n`],
  ] as const;
  for (const [path, text] of files) {
    await writeFile(path, text);
    chmodSync(path, 0o644);
  }
}

/** Content of postmaster.pid. */
export type PostmasterFile = {
  readonly pid: number;
  readonly socketDir: string;
  /** The server accepts connections: start and recovery are done. */
  readonly ready: boolean;
};

/** Undefined if there is no such file: the server was shut down cleanly, or never ran. */
export async function readPostmasterFile(dataDir: string): Promise<PostmasterFile | undefined> {
  let text: string;
  try {
    text = await readFile(join(dataDir, "postmaster.pid"), "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
  const lines = text.split("\n");
  const pid = Number(lines[0]);
  if (!Number.isInteger(pid) || pid < 1) return undefined;
  return { pid, socketDir: lines[4] ?? "", ready: lines[7]?.trim() === "ready" };
}

/**
 * The postmaster that runs on dataDir now, if any. The pid in postmaster.pid counts only if that
 * process is a postgres that was started with exactly this folder.
 */
export async function findPostmaster(
  dataDir: string,
): Promise<(ProcessIdentity & { readonly socketDir: string }) | undefined> {
  const file = await readPostmasterFile(dataDir);
  if (file === undefined) return undefined;
  const identity = identityOf(file.pid);
  if (identity === undefined || !runsOn(file.pid, dataDir)) return undefined;
  return { ...identity, socketDir: file.socketDir };
}

function runsOn(pid: number, dataDir: string): boolean {
  let argv: string[];
  try {
    argv = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch {
    // The process has ended.
    return false;
  }
  return argv[0]?.endsWith("/postgres") === true && argv[1] === "-D" && argv[2] === dataDir;
}

/**
 * Replaces the pid in the lock files of an ended postmaster if that pid is now in use by another
 * process, or by the postmaster's zombie (in a container there may be no reaper): a new server
 * would take that process for a running postmaster and refuse to start. Keeps the rest of
 * postmaster.pid, which names the shared memory that left-over children may still use.
 */
export async function disownLockFiles({
  dataDir,
  socketDir,
}: Pick<PostgresCluster, "dataDir" | "socketDir">): Promise<void> {
  if (await findPostmaster(dataDir)) return;
  await rm(join(socketDir, `${SOCKET_NAME}.lock`), { force: true });
  const file = await readPostmasterFile(dataDir);
  if (file === undefined || !existsSync(`/proc/${file.pid}`)) return;
  const path = join(dataDir, "postmaster.pid");
  const lines = (await readFile(path, "utf8")).split("\n");
  const unfinished = `${path}.new`;
  await rm(unfinished, { force: true });
  await writeFile(unfinished, [NO_PID, ...lines.slice(1)].join("\n"), { flag: "wx" });
  chmodSync(unfinished, 0o644);
  await rename(unfinished, path);
}

/** Larger than any pid of Linux (2^22). */
const NO_PID = 2 ** 31 - 1;
