// Files, folders and links of a tree laid out like /sys, /proc and /dev. Every change is one
// rename, symlink or unlink: it is atomic for readers, and when the writer is killed.
import { randomUUID } from "node:crypto";
import {
  lstat,
  mkdir,
  readFile,
  readdir,
  readlink,
  rename,
  rm,
  symlink,
  writeFile,
} from "node:fs/promises";
import { basename, dirname, join, relative } from "node:path";
import { errnoOf, unlessErrno } from "../../sysfs/errno.ts";
import { placeBelow } from "../../sysfs/kernel.ts";

/** Entries of a folder: text of a file, absolute target of a link, or a folder. */
export type Contents = { readonly [name: string]: string | LinkTo | Contents };
export type LinkTo = { readonly linkTo: string };

export type Tree = ReturnType<typeof openTree>;

/** Folder for entries that are being built or removed; the agent does not read it. */
const SCRATCH = "/var/sim/scratch";

export function openTree(root: string) {
  const at = placeBelow(root);
  const scratch = async () => {
    await mkdir(at(SCRATCH), { recursive: true });
    return join(at(SCRATCH), randomUUID());
  };
  const tree = {
    root,
    at,

    async list(path: string): Promise<readonly string[]> {
      const names = await unlessErrno(readdir(at(path)), ["ENOENT", "ENOTDIR"], []);
      return names.toSorted((a, b) => (a < b ? -1 : 1));
    },

    /** The text of a file, untrimmed; undefined if there is none. */
    async read(path: string): Promise<string | undefined> {
      return await unlessErrno(readFile(at(path), "utf8"), ["ENOENT", "ENOTDIR"], undefined);
    },

    /** Last component of the target of a link; undefined if there is no link. */
    async linkName(path: string): Promise<string | undefined> {
      const noLink = ["ENOENT", "ENOTDIR", "EINVAL"];
      const target = await unlessErrno(readlink(at(path)), noLink, undefined);
      return target?.slice(target.lastIndexOf("/") + 1);
    },

    async folder(path: string): Promise<void> {
      await mkdir(at(path), { recursive: true });
    },

    async write(path: string, text: string): Promise<void> {
      const temporary = await scratch();
      await writeFile(temporary, text);
      await mkdir(dirname(at(path)), { recursive: true });
      await rename(temporary, at(path));
    },

    /** Writes a file unless it exists. */
    async writeNew(path: string, text: string): Promise<void> {
      if ((await tree.read(path)) === undefined) await tree.write(path, text);
    },

    /** Creates a relative link, as the kernel does, so that it stays inside the root. */
    async link(path: string, target: string): Promise<void> {
      if ((await tree.linkName(path)) !== undefined) return;
      await mkdir(dirname(at(path)), { recursive: true });
      try {
        await symlink(linkText(dirname(path), target), at(path));
      } catch (error) {
        if (errnoOf(error) !== "EEXIST") throw error;
      }
    },

    /** Creates a folder with its contents atomically, unless it exists and is not empty. */
    async place(path: string, contents: Contents): Promise<void> {
      if ((await tree.list(path)).length > 0) return;
      const temporary = await scratch();
      await fill(temporary, path, contents);
      await mkdir(dirname(at(path)), { recursive: true });
      await rename(temporary, at(path));
    },

    /** Removes a file, a link or a folder with its contents atomically. */
    async remove(path: string): Promise<void> {
      const gone = ["ENOENT", "ENOTDIR"];
      if ((await unlessErrno(lstat(at(path)), gone, undefined)) === undefined) return;
      const temporary = await scratch();
      await unlessErrno(rename(at(path), temporary), gone, undefined);
      await rm(temporary, { recursive: true, force: true });
    },

    /** Removes the scratch entries of killed processes. */
    async sweepScratch(): Promise<void> {
      await rm(at(SCRATCH), { recursive: true, force: true });
    },
  };
  return tree;
}

/** Builds in `folder` what is later moved to `path`; links are relative to `path`. */
async function fill(folder: string, path: string, contents: Contents): Promise<void> {
  await mkdir(folder, { recursive: true });
  await Promise.all(
    Object.entries(contents).map(async ([name, entry]) => {
      const [place, finalPath] = [join(folder, name), `${path}/${name}`];
      if (typeof entry === "string") await writeFile(place, entry);
      else if (isLink(entry)) await symlink(linkText(path, entry.linkTo), place);
      else await fill(place, finalPath, entry);
    }),
  );
}

/**
 * Link text as the kernel writes it: a link to an ancestor goes one level further up and names it.
 */
function linkText(from: string, to: string): string {
  const text = relative(from, to);
  return /^\.\.(\/\.\.)*$/.test(text) ? `${text}/../${basename(to)}` : text;
}

function isLink(entry: LinkTo | Contents): entry is LinkTo {
  return typeof entry["linkTo"] === "string";
}
