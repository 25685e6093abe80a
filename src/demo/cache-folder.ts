// Where a user's copy of the PostgreSQL programs and the demo's state lie. What is in there is
// executed, so the folder is ours and nobody else may write it; as root it must also be reachable
// for the unprivileged user that PostgreSQL runs as, which a 0700 home is not.
import { chmodSync, lstatSync, mkdirSync, statSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";

/**
 * The per-user cache folder, made if missing: below $XDG_CACHE_HOME or ~/.cache, for root below
 * /var/cache. Where that cannot be had (no home, read-only system) below the temporary folder.
 * Throws if none will do, with the reason for each.
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

/** The folder on the way to path, itself included, that not every user may pass through, if any. */
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
    // Set, not left to the umask: root's folder has to be passable, and nobody else may write it.
    chmodSync(path, 0o755);
  } catch (error) {
    const exists = error instanceof Error && "code" in error && error.code === "EEXIST";
    if (!exists) return error instanceof Error ? error.message : String(error);
  }
  const stat = lstatSync(path);
  if (!stat.isDirectory()) return "not a folder";
  if (stat.uid !== uid) return `belongs to user ${stat.uid}`;
  if ((stat.mode & 0o022) !== 0) return "others may write it";
  if (uid !== 0) return undefined;
  const closed = firstClosedFolder(path);
  return closed === undefined ? undefined : `${closed} is closed to other users`;
}
