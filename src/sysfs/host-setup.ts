// Reads what a machine has for a target: hugepages, IOMMU, vfio, drives, NUMA nodes, and the limits of a
// process. It never writes.
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import type { HostDrive, HostSetup, Hugepages, ProcessLimits } from "../model/host-setup.ts";
import { placeBelow, type Kernel } from "./kernel.ts";
import { listNvme } from "./nvme.ts";

const NODES = "/sys/devices/system/node";
const GROUPS = "/sys/kernel/iommu_groups";

/** root: the root of the kernel's files, to see whether a device node may be opened. */
export async function readHostSetup(kernel: Kernel, root: string): Promise<HostSetup> {
  const nodes = (await kernel.list(NODES)).flatMap((name) => /^node(\d+)$/.exec(name)?.[1] ?? []);
  const [hugepages, groups, driver, vfioNode, drives, cpus] = await Promise.all([
    readHugepages(kernel, nodes),
    readGroups(kernel),
    kernel.list("/sys/bus/pci/drivers/vfio-pci"),
    nodeAccess(kernel, root),
    readDrives(kernel),
    Promise.all(
      nodes.map(async (node) => {
        const list = await kernel.read(`${NODES}/node${node}/cpulist`);
        return [Number(node), cpusOf(list ?? "")] as const;
      }),
    ),
  ]);
  return {
    hugepages,
    hasIommu: groups > 0,
    hasVfioPci: driver.length > 0,
    vfioNode,
    drives,
    cpus: new Map(cpus),
  };
}

async function readHugepages(
  kernel: Kernel,
  nodes: readonly string[],
): Promise<readonly Hugepages[]> {
  const places = nodes.map((node) => ({
    node: Number(node),
    at: `${NODES}/node${node}/hugepages`,
  }));
  const perNode = (await Promise.all(places.map((place) => readSizes(kernel, place)))).flat();
  if (perNode.length > 0) return perNode;
  return await readSizes(kernel, { node: undefined, at: "/sys/kernel/mm/hugepages" });
}

async function readSizes(
  kernel: Kernel,
  { node, at }: { readonly node: number | undefined; readonly at: string },
): Promise<readonly Hugepages[]> {
  const sizes = await kernel.list(at);
  const found = await Promise.all(
    sizes.map(async (name) => {
      const kilobytes = /^hugepages-(\d+)kB$/.exec(name)?.[1];
      if (kilobytes === undefined) return [];
      const [total, free] = await Promise.all([
        kernel.read(`${at}/${name}/nr_hugepages`),
        kernel.read(`${at}/${name}/free_hugepages`),
      ]);
      const pageBytes = BigInt(kilobytes) * 1024n;
      return [{ node, pageBytes, total: BigInt(total ?? "0"), free: BigInt(free ?? "0") }];
    }),
  );
  return found.flat();
}

/** Those of vfio's mode without an IOMMU are none. */
async function readGroups(kernel: Kernel): Promise<number> {
  const groups = await kernel.list(GROUPS);
  const names = await Promise.all(
    groups.map(async (group) => await kernel.read(`${GROUPS}/${group}/name`)),
  );
  return names.filter((name) => name !== "vfio-noiommu").length;
}

async function nodeAccess(kernel: Kernel, root: string): Promise<HostSetup["vfioNode"]> {
  if (!(await kernel.list("/dev/vfio")).includes("vfio")) return "absent";
  try {
    await access(placeBelow(root)("/dev/vfio/vfio"), constants.R_OK | constants.W_OK);
    return "open";
  } catch {
    return "refused";
  }
}

async function readDrives(kernel: Kernel): Promise<readonly HostDrive[]> {
  const { functions } = await listNvme(kernel);
  return await Promise.all(
    functions.map(async ({ pciAddress: address, driver, controllers: [controller] }) => {
      const node = Number((await kernel.read(`/sys/bus/pci/devices/${address}/numa_node`)) ?? "-1");
      const { serial, model } = controller ?? { serial: undefined, model: undefined };
      return { address, driver, node: node < 0 ? undefined : node, serial, model };
    }),
  );
}

/** `0-3,8`. */
function cpusOf(list: string): ReadonlySet<number> {
  const parts = list.split(",").filter((part) => part !== "");
  return new Set(
    parts.flatMap((part) => {
      const [first = 0, last = first] = part.split("-").map(Number);
      return Array.from({ length: last - first + 1 }, (_, index) => first + index);
    }),
  );
}

const CAP_IPC_LOCK = 14n;

/** Undefined: they cannot be read, or the pid is not that of an SPDK target. */
export async function readTargetLimits(
  kernel: Kernel,
  pid: number,
): Promise<ProcessLimits | undefined> {
  // Its main thread is its first reactor. Elsewhere, as in another container, the pid means somebody else.
  const name = await kernel.read(`/proc/${pid}/comm`).catch(() => undefined);
  return name?.startsWith("reactor_") === true ? await readLimits(kernel, String(pid)) : undefined;
}

export async function readOwnLimits(kernel: Kernel): Promise<ProcessLimits | undefined> {
  return await readLimits(kernel, "self");
}

async function readLimits(kernel: Kernel, pid: string): Promise<ProcessLimits | undefined> {
  const [limits, status] = await Promise.all([
    kernel.read(`/proc/${pid}/limits`).catch(() => undefined),
    kernel.read(`/proc/${pid}/status`).catch(() => undefined),
  ]);
  if (limits === undefined) return undefined;
  const capabilities = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status ?? "")?.[1] ?? "0"}`);
  return {
    lockedBytes: limitOf(limits, "Max locked memory"),
    openFiles: limitOf(limits, "Max open files"),
    locksFreely: ((capabilities >> CAP_IPC_LOCK) & 1n) === 1n,
  };
}

/** The soft limit; undefined: none. */
function limitOf(limits: string, name: string): bigint | undefined {
  const soft = new RegExp(`^${name}\\s+(\\S+)`, "m").exec(limits)?.[1];
  return soft === undefined || soft === "unlimited" ? undefined : BigInt(soft);
}
