// The folder of one PostgreSQL server: its data, its socket, its log, and who may reach them. Data
// and socket belong to the server's user and are closed to everybody else, and the server listens
// on nothing but that socket, so other users of the machine cannot connect. What root writes or
// follows lies outside of what it gave away: a lent account must not lead it to other files.
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

/** The database role of the one who may connect; a superuser, as the server is theirs alone. */
export const ROLE = "postgres";
export const PORT = 5432;
const SOCKET_NAME = `.s.PGSQL.${PORT}`;
const INITDB_DIR_PREFIX = "initdb-";

/**
 * Prepares stateDir for a server: made if missing, and a database cluster made in it if it has none.
 * An initdb that was cut short leaves no cluster behind. Throws if the server's user cannot reach
 * the folder, or if it holds another major version's data.
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

/** The environment of the server's programs: the same on every machine, and nothing of ours. */
export const SERVER_ENV = { LC_ALL: "C", TZ: "UTC", PATH: "/usr/bin:/bin" };

/** The user to spawn the server's programs as. */
export function spawnAs(accounts: PostgresAccounts): { uid?: number; gid?: number } {
  return accounts.server === undefined
    ? {}
    : { uid: accounts.server.uid, gid: accounts.server.gid };
}

/**
 * stateDir stays ours, as do the folders made on the way to it (from topmost on); a server with
 * another user may pass through them, not look around, whatever the umask.
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

/** Makes folder if missing, and gives it to the server's user alone. */
function giveToServer(folder: string, { server }: PostgresAccounts): void {
  mkdirSync(folder, { recursive: true });
  if (server !== undefined) chownSync(folder, server.uid, server.gid);
  chmodSync(folder, 0o700);
}

/** In stateDir if the path is short enough for a socket, else a folder of its own, remembered. */
function runFolder(stateDir: string, accounts: PostgresAccounts): Promise<string> {
  return socketFolder({
    wanted: join(stateDir, "run"),
    socketName: SOCKET_NAME,
    note: join(stateDir, "socket-folder"),
    ownerUid: accounts.server?.uid ?? accounts.client.uid,
    // A comma would end the folder's name in the server's list of folders.
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
  // The locale is the server's own, so that text sorts the same on every machine.
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
  let complaint = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (complaint += text));
  const stop = () => child.kill("SIGTERM");
  signal?.addEventListener("abort", stop);
  try {
    // Closed, not only ended: then the server that initdb itself starts is gone too.
    const [code, endedBy]: unknown[] = await once(child, "close");
    signal?.throwIfAborted();
    if (code !== 0) {
      throw new Error(`initdb failed (${String(endedBy ?? code)}): ${complaint.trim()}`);
    }
    await rename(unfinished, cluster.dataDir);
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true });
    throw error;
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

/** Removes what an initdb left whose launcher is gone. */
async function removeUnfinished({ stateDir }: PostgresCluster): Promise<void> {
  for (const name of await readdir(stateDir)) {
    if (!name.startsWith(INITDB_DIR_PREFIX)) continue;
    const [pid, startTicks] = name.slice(INITDB_DIR_PREFIX.length).split("-");
    if (identityOf(Number(pid))?.startTicks === startTicks) continue;
    await rm(join(stateDir, name), { recursive: true, force: true });
  }
}

function refuseOtherMajor({ dataDir, runtime }: PostgresCluster): void {
  const found = readFileSync(join(dataDir, "PG_VERSION"), "utf8").trim();
  const ours = runtime.version.split(".")[0];
  if (found !== ours) {
    throw new Error(`${dataDir} holds data of PostgreSQL ${found}, the server is ${ours}`);
  }
}

/** Nobody but the user of this process, known by the kernel, may connect: `peer` with a map. */
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

/** What postmaster.pid says; undefined if the server was stopped in order, or never ran. */
export type PostmasterFile = {
  readonly pid: number;
  readonly socketDir: string;
  /** Whether the server takes connections: it says so when start and recovery are done. */
  readonly ready: boolean;
};

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
 * The postmaster that runs on dataDir now, if any: the pid in its file counts only if that process
 * is a postgres started on exactly this folder.
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
    // It ended meanwhile.
    return false;
  }
  return argv[0]?.endsWith("/postgres") === true && argv[1] === "-D" && argv[2] === dataDir;
}

/**
 * Makes the lock files of a postmaster that is gone harmless when its pid is in use by another
 * process, or by its own zombie, which nobody may ever reap in a container: the server would take
 * that for itself and refuse to start. The rest of postmaster.pid stays, as it names the shared
 * memory that left-over children may still use.
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

/** Above the largest pid Linux gives (2^22). */
const NO_PID = 2 ** 31 - 1;
