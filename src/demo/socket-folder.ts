// Chooses a folder for a Unix socket. Linux limits socket paths to 107 bytes: if the wanted folder
// has a longer path, it makes one below the temporary folder and remembers it for the next start.
import { lstatSync } from "node:fs";
import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** sun_path of Linux has 108 bytes, the last of them 0. */
const MAX_SOCKET_PATH_BYTES = 107;
/** Limit for the path of the temporary folder, so that folder and socket names fit below it. */
const MAX_TEMPORARY_BYTES = 60;

export type SocketFolderOptions = {
  /** Folder where the socket should be; it need not exist. */
  readonly wanted: string;
  readonly socketName: string;
  /** Path of the file that remembers the short folder. */
  readonly note: string;
  /** A remembered folder is used only if this user owns it and its mode denies all others. */
  readonly ownerUid: number;
  /** Characters that the socket's server does not accept in a path. */
  readonly forbidden?: RegExp;
  /**
   * Changes the owner of the wanted or the new short folder. Never called with a remembered folder:
   * its owner may have replaced it since it was checked.
   */
  readonly give?: (folder: string) => void;
};

/**
 * The wanted folder if the socket's path fits, else the remembered short one or a new one (0700).
 */
export async function socketFolder(options: SocketFolderOptions): Promise<string> {
  const { wanted, socketName, note, ownerUid, forbidden, give } = options;
  const fits = Buffer.byteLength(join(wanted, socketName)) <= MAX_SOCKET_PATH_BYTES;
  if (fits && forbidden?.test(wanted) !== true) {
    give?.(wanted);
    return wanted;
  }
  const remembered = await readFile(note, "utf8").catch(() => "");
  const stat = remembered === "" ? undefined : lstatSync(remembered, { throwIfNoEntry: false });
  if (stat?.isDirectory() === true && stat.uid === ownerUid && (stat.mode & 0o077) === 0) {
    return remembered;
  }
  const short = Buffer.byteLength(tmpdir()) <= MAX_TEMPORARY_BYTES ? tmpdir() : "/tmp";
  const folder = await mkdtemp(join(short, "sn-sock-"));
  give?.(folder);
  await writeFile(note, folder);
  return folder;
}
