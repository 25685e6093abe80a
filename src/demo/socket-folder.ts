// A folder whose sockets the kernel can address: Linux takes paths of at most 107 bytes. Where the
// wanted folder lies too deep, a short one below the temporary folder, remembered for the next start.
import { lstatSync } from "node:fs";
import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** sun_path of Linux holds 108 bytes, the last of them zero. */
const MAX_SOCKET_PATH_BYTES = 107;
/** Leaves room for the socket's own name below a temporary folder. */
const MAX_TEMPORARY_BYTES = 60;

export type SocketFolderOptions = {
  /** Where the socket should be; need not exist. */
  readonly wanted: string;
  readonly socketName: string;
  /** A file that remembers the short folder. */
  readonly note: string;
  /** A remembered folder counts only if this user owns it and nobody else may enter. */
  readonly ownerUid: number;
  /** Characters that the socket's server cannot take in a path. */
  readonly forbidden?: RegExp;
  /**
   * Makes the wanted folder or the new short one its owner's. Never called with the remembered one,
   * which its owner may have replaced since it was looked at.
   */
  readonly give?: (folder: string) => void;
};

/** The wanted folder if a socket fits in it, else the short one: the remembered, or made, 0700. */
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
