// Debian's kernel for virtual machines: downloaded as a package and unpacked, never installed.
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { runTool } from "./run-tool.ts";

/** Names the newest kernel by a dependency. */
const META_PACKAGE = "linux-image-cloud-amd64";

export type GuestKernel = {
  readonly release: string;
  /** Path of the bzImage. */
  readonly image: string;
  /** Folder with the package's files: boot/, lib/modules/. */
  readonly root: string;
};

/** The unpacked kernel in the cache; downloads it if there is none. */
export async function guestKernel(cache: string): Promise<GuestKernel> {
  const folder = join(cache, "linux");
  if (!existsSync(folder)) await unpackKernel(cache, folder);
  const [release] = await readdir(join(folder, "lib/modules"));
  if (release === undefined) throw new Error(`no kernel modules in ${folder}`);
  return {
    release,
    image: join(folder, "boot", `vmlinuz-${release}`),
    root: folder,
  };
}

async function unpackKernel(cache: string, folder: string): Promise<void> {
  await mkdir(cache, { recursive: true });
  const unfinished = await mkdtemp(join(cache, "linux-"));
  try {
    const name = await kernelPackage();
    // Not as apt's own user, who may not write here.
    const asCaller = ["-o", "APT::Sandbox::User=root"];
    await runTool("apt-get", ["-q", ...asCaller, "download", name], { cwd: unfinished });
    const [file] = await readdir(unfinished);
    if (file === undefined) throw new Error(`apt-get downloaded nothing for ${name}`);
    const root = join(unfinished, "root");
    await runTool("dpkg-deb", ["-x", join(unfinished, file), root]);
    const [release = ""] = await readdir(join(root, "lib/modules"));
    await runTool("depmod", ["-b", root, release]);
    await rename(root, folder);
  } finally {
    await rm(unfinished, { recursive: true, force: true });
  }
}

async function kernelPackage(): Promise<string> {
  const depends = await runTool("apt-cache", ["depends", META_PACKAGE]);
  const name = /Depends: (?<name>linux-image-\d\S*)/.exec(depends)?.groups?.["name"];
  if (name === undefined) throw new Error(`apt knows no ${META_PACKAGE}; run apt-get update`);
  return name;
}
