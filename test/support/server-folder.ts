// Folders for PostgreSQL servers of tests. Each says whose it is, so that the next run can end and
// remove what a killed one left, and nothing else.
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

/** Makes a folder for one server (as its stateDir). Disposing ends the server and removes both. */
export async function serverFolder(): Promise<ServerFolder> {
  const path = await mkdtemp(join(tmpdir(), PREFIX));
  const self = identityOf(process.pid);
  if (self !== undefined) writePidFile(join(path, OWNER_FILE), self);
  // Passable for the user that the server runs as, where that is not ours.
  await chmod(path, 0o711);
  return { path, [Symbol.asyncDispose]: () => remove(path) };
}

/** Removes the folders whose owner is gone, with the servers that still run in them. */
export async function removeLeftOverFolders(): Promise<void> {
  for (const name of await readdir(tmpdir())) {
    if (!name.startsWith(PREFIX)) continue;
    const path = join(tmpdir(), name);
    // Another user's folder, or one that is just being made or removed: not ours to judge.
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
