// Builds the file tree of the simulated kernel, and plugs and unplugs drives. Building is
// idempotent: existing drives, driver bindings and data stay as they are.
import { open, rename } from "node:fs/promises";
import { basename } from "node:path";
import {
  devicePath,
  imagePath,
  listHardware,
  readHardware,
  removeHardware,
  writeHardware,
  type Hardware,
  type NamespaceHardware,
} from "./hardware.ts";
import { probe } from "./driver-writes.ts";
import { partitionTable, type Partition } from "./partitions.ts";
import { DRIVERS, settle, VFIO_PCI } from "./settle.ts";
import { emptySlot, ledsOf, placeSlot, type SlotLed } from "./slots.ts";
import { openTree, type Tree } from "./tree.ts";
import { putToUse, type Use } from "./use.ts";

export type SimulatedPartition = {
  readonly startBytes: bigint;
  readonly sizeBytes: bigint;
  readonly use?: Use;
};

export type SimulatedNamespace = {
  readonly sizeBytes: bigint;
  readonly blockSizeBytes?: 512 | 4096;
  /** Initial contents of the disk; the rest is zero. */
  readonly bytes?: readonly { readonly at: bigint; readonly data: Uint8Array }[];
  /** 32 and 16 hexadecimal digits; default: the drive shows none. */
  readonly nguid?: string;
  readonly eui64?: string;
  readonly partitions?: readonly SimulatedPartition[];
  readonly use?: Use;
};

export type SimulatedDrive = {
  /** PCI address such as 0000:00:04.0. */
  readonly address: string;
  readonly serial: string;
  readonly model: string;
  /** Names the drive where another one shows the same serial; default: its serial. */
  readonly id?: string;
  /** Drives with the same value are controllers of one subsystem and share all its namespaces. */
  readonly subsystem?: string;
  /** The driver that it is bound to when it is plugged in; default nvme. */
  readonly driver?: "vfio-pci";
  /** Where the LED of its slot is; default: it has none. */
  readonly locate?: SlotLed;
  /** Set before it is plugged in. */
  readonly driverOverride?: string;
  /** The nvme driver gives the controller up, as one with a known subsystem NQN. */
  readonly rejected?: boolean;
  /** Drives with the same value share a group; ignored without an IOMMU. */
  readonly iommuGroup: string;
  readonly namespaces: readonly SimulatedNamespace[];
};

/** A PCI function other than a drive, for tests of shared IOMMU groups. */
export type SimulatedFunction = {
  readonly address: string;
  readonly class: string;
  readonly driver?: string;
  readonly iommuGroup: string;
};

export type KernelSpec = {
  readonly drives: readonly SimulatedDrive[];
  readonly others?: readonly SimulatedFunction[];
  /** Default true. */
  readonly iommu?: boolean;
  /** Whether the module vfio-pci is loaded; default true. */
  readonly vfioPci?: boolean;
  /** Number of reserved 2 MiB huge pages; default 1,024. */
  readonly hugepages?: number;
};

const PCI_DEVICES = "/sys/bus/pci/devices";
const GROUPS = "/sys/kernel/iommu_groups";

export async function buildKernelTree(root: string, spec: KernelSpec): Promise<void> {
  const tree = openTree(root);
  const others = spec.others ?? [];
  const named = others.map(({ driver }) => driver).filter((driver) => driver !== undefined);
  await buildFrame(tree, spec, new Set(["nvme", ...named]));
  if (spec.vfioPci !== false) await loadVfioPci(root);
  for (const one of others) await plug(tree, otherHardware(one, spec));
  for (const drive of spec.drives) await plugDrive(tree, drive, spec);
  await settle(tree);
}

/** modprobe vfio-pci: binds every driverless function whose driver_override names it. */
export async function loadVfioPci(root: string): Promise<void> {
  const tree = openTree(root);
  if ((await tree.list(`${DRIVERS}/${VFIO_PCI}`)).length > 0) return;
  await tree.folder("/sys/class/vfio");
  await tree.folder("/sys/class/vfio-dev");
  await tree.place("/sys/module/vfio_pci", { initstate: "live\n" });
  await tree.writeNew("/dev/vfio/vfio", "");
  await addLine(tree, "/proc/modules", "vfio_pci 16384 0 - Live 0x0000000000000000");
  await buildDriver(tree, VFIO_PCI);
  for (const hardware of await listHardware(tree)) await probe(tree, hardware);
  await settle(tree);
}

/** Unplugs a drive: removes its PCI function and nodes; its data stays for a later plug. */
export async function unplug(root: string, address: string): Promise<void> {
  const tree = openTree(root);
  const hardware = await readHardware(tree, address);
  if (hardware === undefined) return;
  await tree.remove(`${PCI_DEVICES}/${address}`);
  await tree.remove(`${GROUPS}/${hardware.iommuGroup}/devices/${address}`);
  await tree.remove(devicePath(hardware));
  await emptySlot(tree, hardware);
  await removeHardware(tree, address);
  await settle(tree);
}

/** Plugs a drive into a built tree; what lay on it when it was pulled is still there. */
export async function plugIn(root: string, drive: SimulatedDrive): Promise<void> {
  const tree = openTree(root);
  await plugDrive(tree, drive, { drives: [] });
  await settle(tree);
}

async function plugDrive(tree: Tree, drive: SimulatedDrive, spec: KernelSpec): Promise<void> {
  const { address, serial, model, namespaces, id = serial } = drive;
  if ((await readHardware(tree, address)) !== undefined) return;
  const hardware: Hardware = {
    address,
    class: "0x010802",
    vendor: "0x1b36",
    device: "0x0010",
    driver: "nvme",
    serial,
    model,
    ...(drive.id === undefined ? {} : { drive: id }),
    ...(drive.subsystem === undefined ? {} : { subsystem: drive.subsystem }),
    ...(drive.rejected === undefined ? {} : { rejected: drive.rejected }),
    ...(spec.iommu === false ? {} : { iommuGroup: drive.iommuGroup }),
    namespaces: namespaces.map(({ sizeBytes, blockSizeBytes, nguid, eui64 }, index) => ({
      nsid: index + 1,
      sizeBytes,
      blockSizeBytes: blockSizeBytes ?? 512,
      ...(nguid === undefined ? {} : { nguid }),
      ...(eui64 === undefined ? {} : { eui64 }),
      image: imagePath(id, index + 1),
    })),
  };
  for (const [index, namespace] of hardware.namespaces.entries()) {
    await makeImage(tree, namespace, namespaces[index]);
  }
  await plug(tree, hardware, drive);
  const uses = namespaces.flatMap(({ use, partitions }, index) => [
    ...(use === undefined ? [] : [{ nsid: index + 1, partition: 0, use }]),
    ...(partitions ?? []).flatMap((part, at) =>
      part.use === undefined ? [] : [{ nsid: index + 1, partition: at + 1, use: part.use }],
    ),
  ]);
  if (uses.length > 0) await settle(tree);
  for (const { nsid, partition, use } of uses) {
    await putToUse(tree, hardware, { nsid, partition }, use);
  }
}

/**
 * Writes the hardware file last: if the process is killed before that, the next call starts over.
 */
async function plug(
  tree: Tree,
  hardware: Hardware,
  is: Pick<SimulatedDrive, "driver" | "driverOverride" | "locate"> = {},
): Promise<void> {
  if ((await readHardware(tree, hardware.address)) !== undefined) return;
  const device = devicePath(hardware);
  const { iommuGroup } = hardware;
  const override = is.driverOverride ?? is.driver;
  const wanted = is.driver ?? hardware.driver;
  const driver =
    hardware.rejected === true || (override !== undefined && override !== wanted)
      ? undefined
      : wanted;
  await tree.place(device, {
    class: `${hardware.class}\n`,
    device: `${hardware.device}\n`,
    driver_override: `${override ?? "(null)"}\n`,
    numa_node: "-1\n",
    subsystem: { linkTo: "/sys/bus/pci" },
    vendor: `${hardware.vendor}\n`,
    ...(iommuGroup === undefined ? {} : { iommu_group: { linkTo: `${GROUPS}/${iommuGroup}` } }),
    ...(driver === undefined ? {} : { driver: { linkTo: `${DRIVERS}/${driver}` } }),
    ...(is.locate === "function" ? ledsOf(hardware.address) : {}),
  });
  await placeSlot(tree, hardware, is.locate);
  if (iommuGroup !== undefined) {
    await tree.writeNew(`${GROUPS}/${iommuGroup}/type`, "identity\n");
    await tree.link(`${GROUPS}/${iommuGroup}/devices/${hardware.address}`, device);
  }
  await tree.link(`${PCI_DEVICES}/${hardware.address}`, device);
  await writeHardware(tree, hardware);
}

function otherHardware(one: SimulatedFunction, spec: KernelSpec): Hardware {
  return {
    address: one.address,
    class: one.class,
    vendor: "0x8086",
    device: "0x2922",
    ...(one.driver === undefined ? {} : { driver: one.driver }),
    ...(spec.iommu === false ? {} : { iommuGroup: one.iommuGroup }),
    serial: "",
    model: "",
    namespaces: [],
  };
}

/** A sparse file of the size of the namespace; an existing file keeps its bytes. */
async function makeImage(
  tree: Tree,
  { image, sizeBytes, blockSizeBytes }: NamespaceHardware,
  spec: SimulatedNamespace | undefined,
): Promise<void> {
  if ((await tree.list("/var/sim/disks")).includes(basename(image))) return;
  await tree.folder("/var/sim/disks");
  const partitions: readonly Partition[] = (spec?.partitions ?? []).map((part, index) => ({
    number: index + 1,
    ...part,
  }));
  const table = partitionTable(partitions, blockSizeBytes);
  const writes = [
    ...(partitions.length === 0 ? [] : [{ at: 0n, data: table }]),
    ...(spec?.bytes ?? []),
  ];
  const unfinished = tree.at(`${image}.new`);
  {
    await using handle = await open(unfinished, "w");
    for (const { at, data } of writes) await handle.write(data, 0, data.length, Number(at));
    await handle.truncate(Number(sizeBytes));
  }
  await rename(unfinished, tree.at(image));
}

async function buildFrame(
  tree: Tree,
  spec: KernelSpec,
  drivers: ReadonlySet<string>,
): Promise<void> {
  const folders = [
    "/dev",
    "/sys/block",
    "/sys/class/block",
    "/sys/class/iommu",
    "/sys/class/nvme",
    "/sys/class/nvme-subsystem",
    "/sys/devices/virtual/nvme-subsystem",
    PCI_DEVICES,
    GROUPS,
  ];
  await Promise.all(folders.map(async (path) => await tree.folder(path)));
  for (const driver of drivers) await buildDriver(tree, driver);
  await tree.writeNew("/sys/bus/pci/drivers_autoprobe", "1\n");
  await tree.writeNew("/sys/bus/pci/drivers_probe", "");
  await tree.writeNew("/sys/bus/pci/rescan", "");
  await buildProc(tree, spec.hugepages ?? 1024);
}

async function buildDriver(tree: Tree, name: string): Promise<void> {
  await tree.place(`${DRIVERS}/${name}`, { bind: "", new_id: "", remove_id: "", unbind: "" });
}

async function buildProc(tree: Tree, hugepages: number): Promise<void> {
  const mounts = ["rootfs / rootfs rw 0 0", "proc /proc proc rw 0 0", "sysfs /sys sysfs rw 0 0"];
  const mountinfo = ["1 1 0:2 / / rw - rootfs rootfs rw", "22 1 0:20 / /proc rw - proc proc rw"];
  await tree.writeNew("/proc/mounts", `${mounts.join("\n")}\n`);
  await tree.writeNew("/proc/self/mountinfo", `${mountinfo.join("\n")}\n`);
  await tree.writeNew("/proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
  await tree.writeNew("/proc/modules", "");
  const pages = [
    `HugePages_Total:    ${hugepages}`,
    `HugePages_Free:     ${hugepages}`,
    "Hugepagesize:       2048 kB",
  ];
  await tree.writeNew("/proc/meminfo", `${pages.join("\n")}\n`);
  const size = "/sys/kernel/mm/hugepages/hugepages-2048kB";
  await tree.writeNew(`${size}/nr_hugepages`, `${hugepages}\n`);
  await tree.writeNew(`${size}/free_hugepages`, `${hugepages}\n`);
}

async function addLine(tree: Tree, path: string, line: string): Promise<void> {
  const text = (await tree.read(path)) ?? "";
  if (!text.split("\n").includes(line)) await tree.write(path, `${text}${line}\n`);
}
