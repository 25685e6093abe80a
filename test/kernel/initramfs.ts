// The guest's root file system, as archives that the kernel unpacks one after another: what seldom
// changes (programs, modules, Node) is kept in the cache, the programs of this checkout are added.
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, readFile, realpath, rename, rm } from "node:fs/promises";
import { chmod, symlink, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { bundlePrograms } from "./bundle.ts";
import type { GuestKernel } from "./kernel-package.ts";
import { copyModules } from "./modules.ts";
import { programPath } from "./packages.ts";
import { runTool } from "./run-tool.ts";

const INIT = fileURLToPath(new URL("guest/init.sh", import.meta.url));
const BUILDERS = ["initramfs.ts", "modules.ts"].map((name) =>
  fileURLToPath(new URL(name, import.meta.url)),
);
const FOLDERS = ["bin", "dev", "proc", "sys", "run", "tmp", "etc", "mnt", "root", "var/tmp"];
const PROGRAMS = ["mkfs.ext4", "dmsetup", "nvme", "prlimit", "setpriv"];

export type InitramfsOptions = {
  readonly cache: string;
  readonly kernel: GuestKernel;
  /** Path of a real SPDK target on this machine; undefined: the guest has only the simulated one. */
  readonly spdkTarget: string | undefined;
};

/** Writes the archive of this checkout to `file`, whose folder is on the file system of the cache. */
export async function buildInitramfs(file: string, options: InitramfsOptions): Promise<void> {
  const base = await baseArchive(options, dirname(file));
  const root = await mkdtemp(`${file}-`);
  try {
    await bundlePrograms(root);
    await copyFile(INIT, join(root, "init"));
    await chmod(join(root, "init"), 0o755);
    const own = `${file}.own`;
    await pack(root, own);
    await runTool("sh", ["-c", 'cat "$0" "$1" >"$2"', base, own, file]);
    await rm(own);
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}

async function baseArchive(options: InitramfsOptions, scratch: string): Promise<string> {
  const { cache, kernel, spdkTarget } = options;
  const builders = await Promise.all(BUILDERS.map(async (path) => await readFile(path)));
  const hash = createHash("sha256");
  for (const part of [...builders, kernel.release, process.version, spdkTarget ?? ""]) {
    hash.update(part);
  }
  const archive = join(cache, `base-${hash.digest("hex").slice(0, 16)}.cpio`);
  if (existsSync(archive)) return archive;
  const root = await mkdtemp(join(scratch, "root-"));
  try {
    await fillBase(root, options);
    await pack(root, `${root}.cpio`);
    await rename(`${root}.cpio`, archive);
  } finally {
    await rm(root, { recursive: true, force: true });
  }
  return archive;
}

async function fillBase(root: string, { kernel, spdkTarget }: InitramfsOptions): Promise<void> {
  for (const folder of FOLDERS) await mkdir(join(root, folder), { recursive: true });
  await symlink("bin", join(root, "sbin"));
  await symlink("/proc/mounts", join(root, "etc/mtab"));
  await writeFile(join(root, "etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n");
  await writeFile(join(root, "etc/group"), "root:x:0:\n");
  await writeFile(join(root, "etc/hosts"), "127.0.0.1 localhost\n");
  const busybox = programPath("busybox");
  await copyFile(busybox, join(root, "bin/busybox"));
  const applets = await runTool(busybox, ["--list"]);
  for (const name of applets.split("\n").filter((name) => name !== "" && name !== "busybox")) {
    await symlink("busybox", join(root, "bin", name));
  }
  await copyModules(kernel, root);
  await copyProgram(root, process.execPath, "node");
  for (const name of PROGRAMS) await copyProgram(root, programPath(name), name);
  if (spdkTarget !== undefined) {
    await copyProgram(root, spdkTarget, "spdk_tgt");
    // It does not start without a configuration of OpenSSL; an empty one is enough.
    await mkdir(join(root, "usr/lib/ssl"), { recursive: true });
    await writeFile(join(root, "usr/lib/ssl/openssl.cnf"), "");
  }
}

/** Copies a program to /usr/bin, and the shared libraries that it is linked with to their places. */
async function copyProgram(root: string, program: string, name: string): Promise<void> {
  const real = await realpath(program);
  await copyInto(root, real, join("/usr/bin", name));
  const linked = await runTool("ldd", [real]);
  for (const { groups } of linked.matchAll(/(?<library>\/\S+) \(0x/g)) {
    const library = groups?.["library"] ?? "";
    await copyInto(root, library, join(dirname(library), basename(library)));
  }
}

async function copyInto(root: string, from: string, path: string): Promise<void> {
  const to = join(root, path);
  if (existsSync(to)) return;
  await mkdir(dirname(to), { recursive: true });
  await copyFile(from, to);
  await chmod(to, 0o755);
}

async function pack(root: string, archive: string): Promise<void> {
  const script = 'find . -print0 | cpio --null --create --format=newc --owner=0:0 --quiet >"$0"';
  await runTool("sh", ["-c", script, archive], { cwd: root });
}
