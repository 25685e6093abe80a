// Files, folders and links of a tree that looks like /sys, /proc and /dev. Every change is one
// rename, symlink or unlink, so that a reader or a killed writer sees it whole or not at all.
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

/** What a folder is to hold: text of a file, the absolute target of a link, or a folder. */
export type Contents = { readonly [name: string]: string | LinkTo | Contents };
export type LinkTo = { readonly linkTo: string };

export type Tree = ReturnType<typeof openTree>;

/** Where what is taken apart or not yet put together lies, out of sight of the agent. */
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

    /** The text as it is, undefined when there is no such file. */
    async read(path: string): Promise<string | undefined> {
      return await unlessErrno(readFile(at(path), "utf8"), ["ENOENT", "ENOTDIR"], undefined);
    },

    /** Last part of a link's target, undefined when there is no link. */
    async linkName(path: string): Promise<string | undefined> {
      const gone = ["ENOENT", "ENOTDIR", "EINVAL"];
      const target = await unlessErrno(readlink(at(path)), gone, undefined);
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

    /** Leaves a file that is there as it is. */
    async writeNew(path: string, text: string): Promise<void> {
      if ((await tree.read(path)) === undefined) await tree.write(path, text);
    },

    /** A relative link, as the kernel's are, so that it stays inside the root. */
    async link(path: string, target: string): Promise<void> {
      if ((await tree.linkName(path)) !== undefined) return;
      await mkdir(dirname(at(path)), { recursive: true });
      try {
        await symlink(linkText(dirname(path), target), at(path));
      } catch (error) {
        if (errnoOf(error) !== "EEXIST") throw error;
      }
    },

    /** Puts a whole folder there at once; one that is there stays as it is. */
    async place(path: string, contents: Contents): Promise<void> {
      if ((await tree.list(path)).length > 0) return;
      const temporary = await scratch();
      await fill(temporary, path, contents);
      await mkdir(dirname(at(path)), { recursive: true });
      await rename(temporary, at(path));
    },

    /** Takes a file, link or whole folder away at once. */
    async remove(path: string): Promise<void> {
      const gone = ["ENOENT", "ENOTDIR"];
      if ((await unlessErrno(lstat(at(path)), gone, undefined)) === undefined) return;
      const temporary = await scratch();
      await unlessErrno(rename(at(path), temporary), gone, undefined);
      await rm(temporary, { recursive: true, force: true });
    },

    /** What a killed writer left lying about. */
    async sweepScratch(): Promise<void> {
      await rm(at(SCRATCH), { recursive: true, force: true });
    },
  };
  return tree;
}

/** `folder` is where it is built, `path` where it will be: links are relative to the latter. */
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

/** As the kernel writes it: a link to a folder above goes one further up and names it. */
function linkText(from: string, to: string): string {
  const text = relative(from, to);
  return /^\.\.(\/\.\.)*$/.test(text) ? `${text}/../${basename(to)}` : text;
}

function isLink(entry: LinkTo | Contents): entry is LinkTo {
  return typeof entry["linkTo"] === "string";
}
