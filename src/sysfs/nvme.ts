// Lists the NVMe devices in sysfs: every PCI function of that class, whatever its driver, and every
// namespace that the kernel's nvme driver shows as a block device
// (docs/kernel.md#what-lists-a-disk). It never writes. Kernel names (nvme0n1) change: serial, model
// and namespace id identify a disk.
import type { Kernel } from "./kernel.ts";

export type NvmeTransport = "PCIe" | "TCP" | "RDMA" | "other";

export type NvmePartition = {
  readonly kernelName: string;
  readonly number: number;
  /** `major:minor` */
  readonly dev: string;
  readonly holders: readonly string[];
};

export type NvmeNamespace = {
  /** The block device that can be opened: with multipath the head, not a hidden path. */
  readonly kernelName: string;
  /** `/dev/` + kernelName */
  readonly device: string;
  /** `major:minor`, empty if the kernel shows none. */
  readonly dev: string;
  /** 0 if the kernel shows none. */
  readonly nsid: number;
  readonly serial: string;
  readonly model: string;
  /** 32 and 16 hexadecimal digits in lower case; undefined if the drive shows none. */
  readonly nguid: string | undefined;
  readonly eui64: string | undefined;
  /** 0 if the kernel shows none. */
  readonly sizeBytes: bigint;
  readonly blockSizeBytes: number;
  readonly partitions: readonly NvmePartition[];
  /** Kernel names of the devices stacked on the whole namespace (dm-0, md127). */
  readonly holders: readonly string[];
  readonly transport: NvmeTransport;
  /** PCI address, or the fabric's `traddr=...,trsvcid=...` as the kernel writes it. */
  readonly address: string;
  /** Names of all controllers that reach the namespace; more than one only with multipath. */
  readonly controllers: readonly string[];
};

export type NvmeController = {
  readonly name: string;
  readonly serial: string;
  readonly model: string;
  readonly transport: NvmeTransport;
  readonly address: string;
  /** live, connecting, resetting, dead, ... as the kernel writes it. */
  readonly state: string;
  readonly namespaces: readonly NvmeNamespace[];
};

export type GroupFunction = { readonly address: string; readonly driver: string | undefined };

export type NvmeFunction = {
  readonly pciAddress: string;
  /** Undefined if no driver is bound. */
  readonly driver: string | undefined;
  readonly driverOverride: string | undefined;
  /** Undefined without an IOMMU; the mock group of vfio's no-IOMMU mode does not count. */
  readonly iommuGroup: string | undefined;
  /** All functions of the group, this one included, of whatever class. */
  readonly groupFunctions: readonly GroupFunction[];
  /** Empty unless the function is bound to nvme: only that driver reads serials and namespaces. */
  readonly controllers: readonly NvmeController[];
};

export type NvmeTopology = {
  readonly functions: readonly NvmeFunction[];
  /**
   * Controllers of the kernel's NVMe/TCP and RDMA initiators: listed, never candidates for a claim.
   */
  readonly fabrics: readonly NvmeController[];
};

const PCI = "/sys/bus/pci/devices";
const NVME_CLASS = /^0x0108/;
const DIRECT = /^nvme\d+n\d+$/;
const HIDDEN_PATH = /^(nvme\d+)c\d+(n\d+)$/;

/** Reads all functions and controllers once; omits those that disappear during the read. */
export async function listNvme(kernel: Kernel): Promise<NvmeTopology> {
  const [addresses, names] = await Promise.all([kernel.list(PCI), kernel.list("/sys/class/nvme")]);
  const [controllers, classes] = await Promise.all([
    listControllers(kernel, names),
    Promise.all(addresses.map(async (address) => await kernel.read(`${PCI}/${address}/class`))),
  ]);
  const local = Map.groupBy(controllers, ({ transport, address }) =>
    transport === "PCIe" ? address : "",
  );
  const nvme = addresses.filter(
    (address, index) => NVME_CLASS.test(classes[index] ?? "") || local.has(address),
  );
  return {
    functions: await Promise.all(
      nvme.map(async (address) => ({
        ...(await readFunction(kernel, address)),
        controllers: local.get(address) ?? [],
      })),
    ),
    fabrics: local.get("") ?? [],
  };
}

/**
 * Reads one PCI function without its controllers, for a step that is about to change its driver.
 */
export async function readFunction(
  kernel: Kernel,
  pciAddress: string,
): Promise<Omit<NvmeFunction, "controllers">> {
  const [driver, override, iommuGroup] = await Promise.all([
    readDriver(kernel, pciAddress),
    kernel.read(`${PCI}/${pciAddress}/driver_override`),
    readGroup(kernel, pciAddress),
  ]);
  const members =
    iommuGroup === undefined
      ? [pciAddress]
      : await kernel.list(`/sys/kernel/iommu_groups/${iommuGroup}/devices`);
  return {
    pciAddress,
    driver,
    driverOverride: override === "" || override === "(null)" ? undefined : override,
    iommuGroup,
    groupFunctions: await Promise.all(
      members.map(async (address) => ({ address, driver: await readDriver(kernel, address) })),
    ),
  };
}

export async function readDriver(kernel: Kernel, pciAddress: string): Promise<string | undefined> {
  return lastPart(await kernel.readLink(`${PCI}/${pciAddress}/driver`));
}

async function readGroup(kernel: Kernel, pciAddress: string): Promise<string | undefined> {
  const group = lastPart(await kernel.readLink(`${PCI}/${pciAddress}/iommu_group`));
  if (group === undefined) return undefined;
  const name = await kernel.read(`/sys/kernel/iommu_groups/${group}/name`);
  return name === "vfio-noiommu" ? undefined : group;
}

type ControllerParts = Omit<NvmeController, "namespaces"> & {
  /** Kernel names of its block devices: heads, or hidden paths without a head. */
  readonly blocks: readonly string[];
};

async function listControllers(
  kernel: Kernel,
  names: readonly string[],
): Promise<readonly NvmeController[]> {
  const read = await Promise.all(names.map(async (name) => await readController(kernel, name)));
  const parts = read.filter((part) => part !== undefined);
  const controllersByBlock = new Map<string, string[]>();
  for (const { name, blocks } of parts) {
    for (const block of blocks) {
      controllersByBlock.set(block, [...(controllersByBlock.get(block) ?? []), name]);
    }
  }
  return await Promise.all(
    parts.map(async ({ blocks, ...controller }) => {
      const found = await Promise.all(
        blocks.map(async (block) => {
          const through = controllersByBlock.get(block) ?? [];
          return await readNamespace(kernel, block, controller, through);
        }),
      );
      return { ...controller, namespaces: found.filter((namespace) => namespace !== undefined) };
    }),
  );
}

async function readController(kernel: Kernel, name: string): Promise<ControllerParts | undefined> {
  const at = `/sys/class/nvme/${name}`;
  const [serial, model, transport, address, state, children] = await Promise.all([
    kernel.read(`${at}/serial`),
    kernel.read(`${at}/model`),
    kernel.read(`${at}/transport`),
    kernel.read(`${at}/address`),
    kernel.read(`${at}/state`),
    kernel.list(at),
  ]);
  if (transport === undefined) return undefined;
  return {
    name,
    serial: serial ?? "",
    model: model ?? "",
    transport: transportOf(transport),
    address: address ?? "",
    state: state ?? "",
    blocks: await blocksOf(kernel, children),
  };
}

/** The kernel names a hidden path nvmeScCnN, and the head of its namespace nvmeSnN. */
async function blocksOf(kernel: Kernel, children: readonly string[]): Promise<readonly string[]> {
  const blocks = await Promise.all(
    children.map(async (child) => {
      if (DIRECT.test(child)) return child;
      const path = HIDDEN_PATH.exec(child);
      if (path === null) return undefined;
      const head = `${path[1]}${path[2]}`;
      // A path without a head cannot be opened, but its namespace exists and must be listed.
      const headPath = await kernel.realPath(`/sys/class/block/${head}`);
      return headPath === undefined ? child : head;
    }),
  );
  return blocks.filter((block) => block !== undefined);
}

async function readNamespace(
  kernel: Kernel,
  kernelName: string,
  controller: Omit<ControllerParts, "blocks">,
  controllers: readonly string[],
): Promise<NvmeNamespace | undefined> {
  const at = `/sys/class/block/${kernelName}`;
  const [children, dev, nsid, sectors, blockSize, holders, nguid, eui64] = await Promise.all([
    kernel.list(at),
    kernel.read(`${at}/dev`),
    kernel.read(`${at}/nsid`),
    kernel.read(`${at}/size`),
    kernel.read(`${at}/queue/logical_block_size`),
    kernel.list(`${at}/holders`),
    kernel.read(`${at}/nguid`),
    kernel.read(`${at}/eui`),
  ]);
  if (children.length === 0) return undefined;
  const partitions = children.filter(
    (child) => child.startsWith(`${kernelName}p`) && /^p\d+$/.test(child.slice(kernelName.length)),
  );
  return {
    kernelName,
    device: `/dev/${kernelName}`,
    dev: dev ?? "",
    nsid: Number(decimal(nsid)),
    serial: controller.serial,
    model: controller.model,
    nguid: digits(nguid, 32),
    eui64: digits(eui64, 16),
    // The kernel counts in sectors of 512 bytes, whatever the block size.
    sizeBytes: decimal(sectors) * 512n,
    blockSizeBytes: Number(decimal(blockSize)),
    partitions: await Promise.all(
      partitions.map(async (name) => await readPartition(kernel, at, name)),
    ),
    holders,
    transport: controller.transport,
    address: controller.address,
    controllers,
  };
}

async function readPartition(kernel: Kernel, disk: string, name: string): Promise<NvmePartition> {
  const at = `${disk}/${name}`;
  const [number, dev, holders] = await Promise.all([
    kernel.read(`${at}/partition`),
    kernel.read(`${at}/dev`),
    kernel.list(`${at}/holders`),
  ]);
  return { kernelName: name, number: Number(decimal(number)), dev: dev ?? "", holders };
}

function transportOf(name: string): NvmeTransport {
  const known: Record<string, NvmeTransport> = { pcie: "PCIe", tcp: "TCP", rdma: "RDMA" };
  return known[name] ?? "other";
}

function decimal(text: string | undefined): bigint {
  return text !== undefined && /^\d+$/.test(text) ? BigInt(text) : 0n;
}

/** The hexadecimal digits of an identifier; undefined if there are too few, or none but zeros. */
function digits(text: string | undefined, count: number): string | undefined {
  const all = (text ?? "").replace(/[^0-9a-fA-F]/g, "").toLowerCase();
  return all.length === count && /[^0]/.test(all) ? all : undefined;
}

function lastPart(path: string | undefined): string | undefined {
  return path?.slice(path.lastIndexOf("/") + 1);
}
