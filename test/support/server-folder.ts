// Folders for PostgreSQL servers of tests. Each names its owner process, so that the next run can
// stop the servers and remove the folders of a killed run, and nothing else.
import { chmod, lstat, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { endLeftOverPostgres } from "../../src/demo/postgres.ts";
import {
  identityOf,
  isRunning,
  readPidFile,
  writePidFile,
} from "../../src/demo/process-identity.ts";

const PREFIX = "sn-test-pg-";
const OWNER_FILE = "owner.pid";

export type ServerFolder = AsyncDisposable & { readonly path: string };

/** Creates the stateDir of one server. Disposing stops the server and removes the folder. */
export async function serverFolder(): Promise<ServerFolder> {
  const path = await mkdtemp(join(tmpdir(), PREFIX));
  const self = identityOf(process.pid);
  if (self !== undefined) writePidFile(join(path, OWNER_FILE), self);
  // The server may run as another user, who must be able to enter the folder.
  await chmod(path, 0o711);
  return { path, [Symbol.asyncDispose]: () => remove(path) };
}

/** Removes folders whose owner process has exited, and stops servers still running in them. */
export async function removeLeftOverFolders(): Promise<void> {
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
  await endLeftOverPostgres(path);
  await rm(path, { recursive: true, force: true });
}
