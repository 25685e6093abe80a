// The port to the kernel: /sys, /proc and /dev below a root folder, and nothing else. It reads, it
// writes what it is told, and it decides nothing: whether a write is safe is its callers' business.
import { constants } from "node:fs";
import { open, readFile, readdir, readlink, realpath, type FileHandle } from "node:fs/promises";
import { unlessErrno } from "./errno.ts";

/** A block device opened O_RDONLY | O_EXCL: nobody can mount, stack on or claim it meanwhile. */
export type HeldDevice = AsyncDisposable & {
  readonly device: string;
  /** `major:minor` of the node that was opened: names move to other disks, open files do not. */
  readonly dev: string | undefined;
  /** Fewer bytes than asked for only at the end of the device. */
  readonly read: (offset: bigint, length: number) => Promise<Uint8Array>;
};

/** All paths are absolute and relative to the root. A failed call throws Node's error, errno kept. */
export type Kernel = {
  /** Names in a folder, sorted; none if there is no such folder. */
  readonly list: (path: string) => Promise<readonly string[]>;
  /** Text without surrounding blanks; undefined when there is no such attribute (any more). */
  readonly read: (path: string) => Promise<string | undefined>;
  /** The target as the link has it; undefined when there is no link. */
  readonly readLink: (path: string) => Promise<string | undefined>;
  /** The path with all links resolved, below the root; undefined when it leads nowhere. */
  readonly realPath: (path: string) => Promise<string | undefined>;
  /** One write(2) on an existing attribute. Text must not be empty: that would write nothing. */
  readonly write: (path: string, text: string) => Promise<void>;
  /** Undefined when somebody else uses the device (EBUSY). */
  readonly openExclusive: (device: string) => Promise<HeldDevice | undefined>;
  /** As HeldDevice.read, for a device that somebody else may be using. */
  readonly readBlocks: (device: string, offset: bigint, length: number) => Promise<Uint8Array>;
};

/** ENODEV and ENXIO: the device went away between the listing and the read. */
const ABSENT = ["ENOENT", "ENOTDIR", "ENODEV", "ENXIO"];

/** The running kernel, or a tree that looks like one (STORAGE_NODE_ROOT). */
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
    write: async (path, text) => await writeOnce(at(path), text),
    openExclusive: async (device) => {
      const flags = constants.O_RDONLY | constants.O_EXCL;
      const handle = await unlessErrno(open(at(device), flags), ["EBUSY"], undefined);
      return handle === undefined ? undefined : await held(device, handle);
    },
    readBlocks: async (device, offset, length) => {
      await using handle = await open(at(device), constants.O_RDONLY);
      return await readFully(handle, offset, length);
    },
  };
}

/** Where a path of the kernel lies on the agent's file system. */
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
  if (text === "") throw new RangeError(`nothing to write to ${path}`);
  // O_WRONLY alone: attributes such as unbind have mode 0200, which even root may not open for
  // reading, and O_CREAT would turn a missing attribute's ENOENT into EACCES.
  await using handle = await open(path, constants.O_WRONLY);
  const bytes = Buffer.from(text, "latin1");
  const { bytesWritten } = await handle.write(bytes, 0, bytes.length, null);
  if (bytesWritten !== bytes.length) {
    throw new Error(`wrote ${bytesWritten} of ${bytes.length} bytes to ${path}`);
  }
}

async function held(device: string, handle: FileHandle): Promise<HeldDevice> {
  return {
    device,
    dev: await deviceOf(device, handle),
    read: async (offset, length) => await readFully(handle, offset, length),
    // Closing twice is no error: the claim lets go early, its caller at the end.
    [Symbol.asyncDispose]: async () => await handle.close(),
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

/** Linux dev_t as userspace has it: 12 bits of major and 20 of minor, interleaved. */
function deviceNumber(rdev: bigint): string {
  const major = ((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n);
  const minor = (rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n);
  return `${major}:${minor}`;
}

/** Reads until length bytes are there or the file ends. */
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
