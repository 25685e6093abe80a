// A kernel over a folder: reads are plain reads, writes do to the tree what the real kernel would.
// The tree is all its state, so it outlives the agent, killed or not. One process at a time writes.
import { open } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { openKernel, readFully, type HeldDevice, type Kernel } from "../../sysfs/kernel.ts";
import { driverWrite, refuse } from "./driver-writes.ts";
import { readHardware } from "./hardware.ts";
import { settle } from "./settle.ts";
import { openTree, type Tree } from "./tree.ts";

export type SimulatedKernel = Kernel & AsyncDisposable;

export type SimulatedKernelOptions = {
  /** How long after its probe a drive's block devices appear; 0 to 180 ms on real ones. */
  readonly appearMs?: number;
};

/** Opens a tree (see build-tree.ts) and completes what a killed process left half done. */
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
    write: async (path, text) => {
      if (text === "") throw new RangeError(`nothing to write to ${path}`);
      await changes.write(host, path, text);
    },
    openExclusive: async (device) => await openDevice(host, tree, exclusive, device),
    readBlocks: async (device, offset, length) => {
      await using handle = await open(tree.at(device), "r");
      return await readFully(handle, offset, length);
    },
    [Symbol.asyncDispose]: async () => await changes[Symbol.asyncDispose](),
  };
}

/** Writes happen one after the other; block devices appear a while after the write that binds. */
class Changes {
  readonly #tree: Tree;
  readonly #appearMs: number;
  readonly #scanning = new Map<string, NodeJS.Timeout>();
  #last: Promise<void> = Promise.resolve();
  #failure: unknown;

  constructor(tree: Tree, appearMs: number) {
    this.#tree = tree;
    this.#appearMs = appearMs;
  }

  async write(host: Kernel, path: string, text: string): Promise<void> {
    await this.#inTurn(async () => {
      // The folder is looked up as open(2) would: without a driver there is no <device>/driver.
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
    for (const timer of this.#scanning.values()) clearTimeout(timer);
    this.#scanning.clear();
    await this.#inTurn(async () => await this.#settle());
    if (this.#failure !== undefined) throw this.#failure;
  }

  async #scan(address: string): Promise<void> {
    const hardware = await readHardware(this.#tree, address);
    if (hardware === undefined || hardware.namespaces.length === 0) return;
    clearTimeout(this.#scanning.get(address));
    const appear = () => {
      this.#scanning.delete(address);
      this.#inTurn(async () => await this.#settle()).catch((error: unknown) => {
        this.#failure = error;
      });
    };
    this.#scanning.set(address, setTimeout(appear, this.#appearMs));
  }

  async #settle(): Promise<void> {
    await settle(this.#tree, { scanning: new Set(this.#scanning.keys()) });
  }

  async #inTurn(act: () => Promise<void>): Promise<void> {
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
): Promise<HeldDevice | undefined> {
  const kernelName = basename(device);
  const at = `/sys/class/block/${kernelName}`;
  const handle = await open(tree.at(device), "r");
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
      [Symbol.asyncDispose]: async () => {
        // The second time over, somebody else may hold it by now.
        if (handle.fd !== -1) exclusive.delete(dev);
        await handle.close();
      },
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** What makes the kernel refuse: a mount, swap or holder of the disk or of a partition. */
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
