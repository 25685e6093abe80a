// What the kernel tests need of the system: programs, each with the Debian package that has it.
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";
import { TOOL_PATH } from "./run-tool.ts";

const PACKAGES: Readonly<Record<string, string>> = {
  "qemu-system-x86_64": "qemu-system-x86",
  busybox: "busybox-static",
  cpio: "cpio",
  depmod: "kmod",
  modprobe: "kmod",
  "mkfs.ext4": "e2fsprogs",
  dmsetup: "dmsetup",
  nvme: "nvme-cli",
  setpriv: "util-linux",
  prlimit: "util-linux",
  ldd: "libc-bin",
  "dpkg-deb": "dpkg",
  "apt-get": "apt",
};

/** The Debian packages that are missing here. */
export function missingPackages(): readonly string[] {
  const missing = Object.entries(PACKAGES).filter(([name]) => findProgram(name) === undefined);
  return [...new Set(missing.map(([, name]) => name))];
}

/** The path of a program; throws if there is none. */
export function programPath(name: string): string {
  const path = findProgram(name);
  if (path === undefined) throw new Error(`no program ${name} (package ${PACKAGES[name] ?? "?"})`);
  return path;
}

function findProgram(name: string): string | undefined {
  return TOOL_PATH.split(delimiter)
    .filter((folder) => folder !== "")
    .map((folder) => join(folder, name))
    .find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
