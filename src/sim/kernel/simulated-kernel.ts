// A kernel over a folder: reads are file reads, writes change the tree as the real kernel would.
// The tree holds all state, so it survives a killed agent. One process at a time writes.
import { open } from "node:fs/promises";
import { basename, dirname } from "node:path";
import {
  openKernel,
  readFully,
  writes,
  type Kernel,
  type WritableDevice,
} from "../../sysfs/kernel.ts";
import { plugIn, unplug, type SimulatedDrive } from "./build-tree.ts";
import { driverWrite, refuse } from "./driver-writes.ts";
import { readHardware } from "./hardware.ts";
import { driverOf, settle, VFIO_PCI } from "./settle.ts";
import { openTree, type Tree } from "./tree.ts";
import { groupIsOpen, isAlive } from "./vfio-users.ts";

export type SimulatedKernel = Kernel &
  AsyncDisposable & {
    /** What lay on the drive when it was pulled is still there. */
    readonly plugIn: (drive: SimulatedDrive) => Promise<void>;
    /** Removes the function of a drive, and what the kernel shows of it; its data stays. */
    readonly unplug: (address: string) => Promise<void>;
  };

export type SimulatedKernelOptions = {
  /** Milliseconds from the probe of a drive to its block devices; 0 to 180 ms on real kernels. */
  readonly appearMs?: number;
};

/** Opens a tree (see build-tree.ts) and completes changes that a killed process left half done. */
export async function openSimulatedKernel(
  root: string,
  { appearMs = 30 }: SimulatedKernelOptions = {},
): Promise<SimulatedKernel> {
  const tree = openTree(root);
  await tree.sweepScratch();
  await settle(tree);
  const host = openKernel(root);
  const changes = new Changes(tree, appearMs);
  const exclusive = new Set<string>();
  return {
    ...host,
    list: async (path) => {
      // A process that has exited has no folder any more.
      const pid = /^\/proc\/(\d+)(\/|$)/.exec(path)?.[1];
      return pid === undefined || isAlive(Number(pid)) ? await host.list(path) : [];
    },
    write: async (path, text) => {
      if (text === "") throw new RangeError(`cannot write an empty text to ${path}`);
      await changes.write(host, path, text);
    },
    openExclusive: async (device) => await openDevice(host, tree, exclusive, device),
    openToWrite: async (device) => await openDevice(host, tree, exclusive, device),
    readBlocks: async (device, offset, length) => {
      await using handle = await open(tree.at(device), "r");
      return await readFully(handle, offset, length);
    },
    plugIn: async (drive) => await changes.inTurn(async () => await plugIn(root, drive)),
    unplug: async (address) => await changes.inTurn(async () => await unplug(root, address)),
    [Symbol.asyncDispose]: async () => await changes[Symbol.asyncDispose](),
  };
}

/** Serializes writes; block devices appear `appearMs` after the write that binds a driver. */
class Changes {
  readonly #tree: Tree;
  readonly #appearMs: number;
  readonly #scanning = new Map<string, NodeJS.Timeout>();
  #last: Promise<void> = Promise.resolve();
  #failure: unknown;
  #closed = false;

  constructor(tree: Tree, appearMs: number) {
    this.#tree = tree;
    this.#appearMs = appearMs;
  }

  async write(host: Kernel, path: string, text: string): Promise<void> {
    if (path.endsWith("/unbind")) await this.#letGo(text);
    await this.inTurn(async () => {
      // Resolve the folder as open(2) does: without a bound driver, <device>/driver does not exist.
      const folder = await host.realPath(dirname(path));
      const real = folder === undefined ? undefined : `${folder}/${basename(path)}`;
      if (real === undefined || (await this.#tree.read(real)) === undefined) {
        throw refuse("ENOENT", path);
      }
      const bound = await driverWrite(this.#tree, real, text);
      for (const address of bound) await this.#scan(address);
      await this.#settle();
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    for (const timer of this.#scanning.values()) clearTimeout(timer);
    this.#scanning.clear();
    await this.inTurn(async () => await this.#settle());
    if (this.#failure !== undefined) throw this.#failure;
  }

  /** vfio-pci waits, without limit, until whoever has the device open has closed it. */
  async #letGo(address: string): Promise<void> {
    const hardware = await readHardware(this.#tree, address);
    if (hardware === undefined || (await driverOf(this.#tree, hardware)) !== VFIO_PCI) return;
    const { iommuGroup } = hardware;
    if (iommuGroup === undefined) return;
    while (!this.#closed && groupIsOpen(this.#tree.root, iommuGroup)) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  async #scan(address: string): Promise<void> {
    const hardware = await readHardware(this.#tree, address);
    if (hardware === undefined || hardware.namespaces.length === 0) return;
    clearTimeout(this.#scanning.get(address));
    const appear = () => {
      this.#scanning.delete(address);
      this.inTurn(async () => await this.#settle()).catch((error: unknown) => {
        this.#failure = error;
      });
    };
    this.#scanning.set(address, setTimeout(appear, this.#appearMs));
  }

  async #settle(): Promise<void> {
    await settle(this.#tree, { scanning: new Set(this.#scanning.keys()) });
  }

  async inTurn(act: () => Promise<void>): Promise<void> {
    const turn = this.#last.then(act);
    this.#last = turn.catch(() => {});
    await turn;
  }
}

async function openDevice(
  host: Kernel,
  tree: Tree,
  exclusive: Set<string>,
  device: string,
): Promise<WritableDevice | undefined> {
  const kernelName = basename(device);
  const at = `/sys/class/block/${kernelName}`;
  const handle = await open(tree.at(device), "r+");
  try {
    const dev = (await host.read(`${at}/dev`)) ?? "";
    if (exclusive.has(dev) || (await inUse(host, kernelName, dev))) {
      await handle.close();
      return undefined;
    }
    exclusive.add(dev);
    return {
      device,
      dev,
      read: async (offset, length) => await readFully(handle, offset, length),
      ...writes(handle),
      [Symbol.asyncDispose]: async () => {
        // On a second disposal another caller may hold the device.
        if (handle.fd !== -1) exclusive.delete(dev);
        await handle.close();
      },
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** Whether an exclusive open fails: the disk or a partition is mounted, used as swap, or held. */
async function inUse(host: Kernel, kernelName: string, dev: string): Promise<boolean> {
  const at = `/sys/class/block/${kernelName}`;
  const [mounts, mountinfo, swaps, children] = await Promise.all([
    host.read("/proc/mounts"),
    host.read("/proc/self/mountinfo"),
    host.read("/proc/swaps"),
    host.list(at),
  ]);
  const partitions = children.filter((child) => child.startsWith(`${kernelName}p`));
  const [holders, devs] = await Promise.all([
    Promise.all(
      [at, ...partitions.map((name) => `${at}/${name}`)].map(async (path) => {
        return await host.list(`${path}/holders`);
      }),
    ),
    Promise.all(partitions.map(async (name) => await host.read(`${at}/${name}/dev`))),
  ]);
  const paths = [kernelName, ...partitions].map((name) => `/dev/${name}`);
  const firstWords = `${mounts ?? ""}\n${swaps ?? ""}`.split("\n").map((row) => row.split(/\s/)[0]);
  const mountedDevs = (mountinfo ?? "").split("\n").map((row) => row.split(" ")[2]);
  return (
    holders.some((names) => names.length > 0) ||
    paths.some((path) => firstWords.includes(path)) ||
    [dev, ...devs].some((one) => one !== undefined && one !== "" && mountedDevs.includes(one))
  );
}
