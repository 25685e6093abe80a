// Access to the kernel: /sys, /proc and /dev below a root folder. It never checks whether a write
// is safe; that is up to its callers.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { constants } from "node:fs";
import { open, readFile, readdir, readlink, realpath, type FileHandle } from "node:fs/promises";
import { constants as osConstants } from "node:os";
import { unlessErrno } from "./errno.ts";

const errnoNumbers = osConstants.errno;

/**
 * A block device opened O_RDONLY | O_EXCL: until it is closed the kernel refuses to mount or stack
 * on it.
 */
export type HeldDevice = AsyncDisposable & {
  readonly device: string;
  /** `major:minor` of the opened node: a name may move to another disk, an open file does not. */
  readonly dev: string | undefined;
  /** Returns fewer than `length` bytes only at the end of the device. */
  readonly read: (offset: bigint, length: number) => Promise<Uint8Array>;
};

/** As HeldDevice, opened O_RDWR | O_EXCL. */
export type WritableDevice = HeldDevice & {
  /** Writes all of the bytes. */
  readonly write: (offset: bigint, bytes: Uint8Array) => Promise<void>;
  /** Resolves once what was written outlasts a power failure. */
  readonly sync: () => Promise<void>;
};

/**
 * Paths start with "/" and are resolved below the root. A failed call throws Node's error with its
 * errno.
 */
export type Kernel = {
  /** Names in a folder, sorted; empty if the folder does not exist. */
  readonly list: (path: string) => Promise<readonly string[]>;
  /** Text without surrounding blanks; undefined if the attribute or its device does not exist. */
  readonly read: (path: string) => Promise<string | undefined>;
  /** The unresolved target of a symbolic link; undefined if there is no link. */
  readonly readLink: (path: string) => Promise<string | undefined>;
  /** The path with all links resolved, below the root; undefined if it does not exist there. */
  readonly realPath: (path: string) => Promise<string | undefined>;
  /**
   * One write(2) on an existing attribute. `text` must not be empty: write(2) of 0 bytes does
   * nothing.
   */
  readonly write: (path: string, text: string) => Promise<void>;
  /** Undefined if the device is in use (EBUSY). */
  readonly openExclusive: (device: string) => Promise<HeldDevice | undefined>;
  /** As openExclusive. */
  readonly openToWrite: (device: string) => Promise<WritableDevice | undefined>;
  /** As HeldDevice.read, for a device that may be in use. */
  readonly readBlocks: (device: string, offset: bigint, length: number) => Promise<Uint8Array>;
};

/** Errno names of a missing file; ENODEV and ENXIO: the device was removed after the listing. */
const ABSENT = ["ENOENT", "ENOTDIR", "ENODEV", "ENXIO"];

/** root: "/" for the running kernel, or a folder with a copy of its tree (STORAGE_NODE_ROOT). */
export function openKernel(root: string): Kernel {
  const at = placeBelow(root);
  return {
    list: async (path) => {
      const names = await unlessErrno(readdir(at(path)), ABSENT, []);
      return names.toSorted((a, b) => (a < b ? -1 : 1));
    },
    read: async (path) => {
      const text = await unlessErrno(readFile(at(path), "latin1"), ABSENT, undefined);
      return text?.trim();
    },
    readLink: async (path) =>
      await unlessErrno(readlink(at(path)), [...ABSENT, "EINVAL"], undefined),
    realPath: async (path) => {
      const [base, real] = await Promise.all([
        realpath(root),
        unlessErrno(realpath(at(path)), ABSENT, undefined),
      ]);
      return real === undefined ? undefined : withoutRoot(base, real);
    },
    write: async (path, text) => {
      if (text === "") throw new RangeError(`empty write to ${path}`);
      if (path.endsWith("/unbind")) await writeInChild(at(path), text);
      else await writeOnce(at(path), text);
    },
    openExclusive: async (device) => {
      const flags = constants.O_RDONLY | constants.O_EXCL;
      const handle = await unlessErrno(open(at(device), flags), ["EBUSY"], undefined);
      return handle === undefined ? undefined : await held(device, handle);
    },
    openToWrite: async (device) => {
      const flags = constants.O_RDWR | constants.O_EXCL;
      const handle = await unlessErrno(open(at(device), flags), ["EBUSY"], undefined);
      if (handle === undefined) return undefined;
      return { ...(await held(device, handle)), ...writes(handle) };
    },
    readBlocks: async (device, offset, length) => {
      await using handle = await open(at(device), constants.O_RDONLY);
      return await readFully(handle, offset, length);
    },
  };
}

/**
 * Maps an absolute kernel path to a path below root. The mapping throws RangeError on a relative
 * one.
 */
export function placeBelow(root: string): (path: string) => string {
  const base = root.replace(/\/+$/, "");
  return (path) => {
    if (!path.startsWith("/")) throw new RangeError(`kernel path ${path} is not absolute`);
    return base + path;
  };
}

function withoutRoot(base: string, real: string): string | undefined {
  if (base === "/") return real;
  if (real === base) return "/";
  return real.startsWith(`${base}/`) ? real.slice(base.length) : undefined;
}

async function writeOnce(path: string, text: string): Promise<void> {
  // O_WRONLY alone: attributes such as unbind have mode 0200, which even root may not open for
  // reading, and O_CREAT would turn a missing attribute's ENOENT into EACCES.
  await using handle = await open(path, constants.O_WRONLY);
  const bytes = Buffer.from(text, "latin1");
  const { bytesWritten } = await handle.write(bytes, 0, bytes.length, null);
  if (bytesWritten !== bytes.length) {
    throw new Error(`wrote ${bytesWritten} of ${bytes.length} bytes to ${path}`);
  }
}

/** What a child does: one write; its exit status is the errno of what fails. */
const CHILD = `
const { openSync, writeSync, constants } = require("node:fs");
try {
  writeSync(openSync(process.argv[1], constants.O_WRONLY), process.argv[2], null, "latin1");
} catch (error) {
  process.exitCode = Math.abs(error.errno);
}
`;

/**
 * As writeOnce, in a process of its own: a write that does not return keeps neither a thread of this
 * process nor its end. Nothing can end such a child before the kernel does.
 */
async function writeInChild(path: string, text: string): Promise<void> {
  const options = { stdio: "ignore", detached: true } as const;
  const child = spawn(process.execPath, ["-e", CHILD, "--", path, text], options);
  child.unref();
  const [status]: unknown[] = await once(child, "exit");
  if (status === 0) return;
  const code = Object.entries(errnoNumbers).find(([, number]) => number === status)?.[0] ?? "EIO";
  throw Object.assign(new Error(`${code}: write '${path}'`), { code, syscall: "write", path });
}

async function held(device: string, handle: FileHandle): Promise<HeldDevice> {
  return {
    device,
    dev: await deviceOf(device, handle),
    read: async (offset, length) => await readFully(handle, offset, length),
    // Closing twice is no error: claimFunctions closes it first, the caller that opened it again.
    [Symbol.asyncDispose]: async () => await handle.close(),
  };
}

/** The writing half of WritableDevice. */
export function writes(handle: FileHandle): Pick<WritableDevice, "write" | "sync"> {
  return {
    write: async (offset, bytes) => {
      for (let done = 0; done < bytes.length;) {
        const at = Number(offset) + done;
        const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, at);
        done += bytesWritten;
      }
    },
    sync: async () => await handle.sync(),
  };
}

async function deviceOf(device: string, handle: FileHandle): Promise<string> {
  try {
    const stat = await handle.stat({ bigint: true });
    if (!stat.isBlockDevice()) throw new Error(`${device} is not a block device`);
    return deviceNumber(stat.rdev);
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** Splits a Linux dev_t in the encoding of glibc, which interleaves major and minor. */
function deviceNumber(rdev: bigint): string {
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n);
  return `${major}:${minor}`;
}

/** Reads `length` bytes, or fewer if the file ends before. */
export async function readFully(
  handle: FileHandle,
  offset: bigint,
  length: number,
): Promise<Uint8Array> {
  const bytes = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const position = offset + BigInt(done);
    const { bytesRead } = await handle.read(bytes, done, length - done, position);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return bytes.subarray(0, done);
}
