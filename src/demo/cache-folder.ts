// The folder for the user's copy of the PostgreSQL programs and for the demo's state. Programs in
// it are executed, so it must belong to this user and be writable by no other. For root it must
// also be reachable by the unprivileged user that PostgreSQL runs as, so it cannot be below a home
// of mode 0700.
import { chmodSync, lstatSync, mkdirSync, statSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";

/**
 * The per-user cache folder, created if missing: below $XDG_CACHE_HOME or ~/.cache, for root below
 * /var/cache; if that is unusable (no home, read-only system), below the temporary folder. Throws
 * if none is usable, with the reason for each.
 */
export function cacheFolder(env: Readonly<Record<string, string | undefined>>): string {
  const uid = process.getuid?.() ?? 0;
  const faults: string[] = [];
  for (const path of candidates(env, uid)) {
    const fault = faultOf(path, uid);
    if (fault === undefined) return path;
    faults.push(`${path}: ${fault}`);
  }
  throw new Error(`no folder for caches (set XDG_CACHE_HOME): ${faults.join("; ")}`);
}

/** The first folder, from path upwards, that other users may not pass (o+x missing), if any. */
export function firstClosedFolder(path: string): string | undefined {
  for (let folder = resolve(path); ; folder = dirname(folder)) {
    if ((statSync(folder).mode & 0o001) === 0) return folder;
    if (folder === dirname(folder)) return undefined;
  }
}

function candidates(env: Readonly<Record<string, string | undefined>>, uid: number): string[] {
  const xdg = env["XDG_CACHE_HOME"];
  const chosen = xdg?.startsWith("/") === true ? [join(xdg, "storage-node")] : [];
  const usual = uid === 0 ? "/var/cache/storage-node" : join(homedir(), ".cache", "storage-node");
  return [...chosen, usual, join(tmpdir(), `storage-node-${uid}`)];
}

function faultOf(path: string, uid: number): string | undefined {
  try {
    mkdirSync(dirname(path), { recursive: true });
    mkdirSync(path);
    // Set the mode whatever the umask is: others must be able to pass root's folder, and not to
    // write.
    chmodSync(path, 0o755);
  } catch (error) {
    const exists = error instanceof Error && "code" in error && error.code === "EEXIST";
    if (!exists) return error instanceof Error ? error.message : String(error);
  }
  const stat = lstatSync(path);
  if (!stat.isDirectory()) return "is not a folder";
  if (stat.uid !== uid) return `belongs to user ${stat.uid}`;
  if ((stat.mode & 0o022) !== 0) return "is writable by other users";
  if (uid !== 0) return undefined;
  const closed = firstClosedFolder(path);
  return closed === undefined ? undefined : `${closed} is closed to other users`;
}
