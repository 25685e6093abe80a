// Tree entries of a function bound to the nvme driver: the controller, its subsystem and its block
// devices. As in the kernel, names use the lowest free number, so they change across rebinds.
import { devicePath, type Hardware, type NamespaceHardware } from "./hardware.ts";
import { scanPartitions, type Partition } from "./partitions.ts";
import type { Contents, Tree } from "./tree.ts";

const SUBSYSTEMS = "/sys/devices/virtual/nvme-subsystem";
const PCI_DEVICES = "/sys/bus/pci/devices";
const CONTROLLER_MAJOR = 247;
const BLOCK_MAJOR = 259;

/**
 * Creates the missing entries. `live`: whether the namespace scan is finished; before that the
 * controller exists in state "connecting" and has no block devices.
 */
export async function showNvme(tree: Tree, hardware: Hardware, live: boolean): Promise<void> {
  const device = devicePath(hardware);
  const number = await controllerNumber(tree, device);
  const name = `nvme${number}`;
  const controller = `${device}/nvme/${name}`;
  await tree.place(`${device}/nvme`, { [name]: controllerContents(hardware, device, number) });
  await tree.link(`/sys/class/nvme/${name}`, controller);
  await tree.writeNew(`/dev/${name}`, "");
  const subsystem = await showSubsystem(tree, hardware, controller, name);
  if (!live) return;
  for (const [index, namespace] of hardware.namespaces.entries()) {
    const block = `nvme${subsystem}n${index + 1}`;
    if (hardware.subsystem === undefined) {
      await showBlock(tree, { parent: controller, block, namespace });
      continue;
    }
    const path = `nvme${subsystem}c${number}n${index + 1}`;
    await showPath(tree, { parent: controller, block: path, namespace });
    await showBlock(tree, { parent: `${SUBSYSTEMS}/nvme-subsys${subsystem}`, block, namespace });
  }
  if ((await tree.read(`${controller}/state`)) !== "live\n") {
    await tree.write(`${controller}/state`, "live\n");
  }
}

/** Removes the entries, even if a block device is open or mounted. */
export async function hideNvme(tree: Tree, hardware: Hardware): Promise<void> {
  await tree.remove(`${devicePath(hardware)}/nvme`);
}

/** Removes dangling links, and device nodes without a device. */
export async function sweepNvme(tree: Tree): Promise<void> {
  const isDangling = async (path: string) => (await tree.list(`${path}/`)).length === 0;
  for (const subsystem of await tree.list(SUBSYSTEMS)) {
    const links = (await tree.list(`${SUBSYSTEMS}/${subsystem}`)).filter((name) =>
      /^nvme\d+$/.test(name),
    );
    const dangling = await Promise.all(
      links.map(async (name) => await isDangling(`${SUBSYSTEMS}/${subsystem}/${name}`)),
    );
    if (dangling.every((one) => one)) await tree.remove(`${SUBSYSTEMS}/${subsystem}`);
    const gone = links.filter((_, index) => dangling[index] === true);
    for (const name of gone) await tree.remove(`${SUBSYSTEMS}/${subsystem}/${name}`);
  }
  for (const folder of ["/sys/block", "/sys/class/block", "/sys/class/nvme"]) {
    for (const name of await tree.list(folder)) {
      if (await isDangling(`${folder}/${name}`)) await tree.remove(`${folder}/${name}`);
    }
  }
  for (const name of await tree.list("/sys/class/nvme-subsystem")) {
    const path = `/sys/class/nvme-subsystem/${name}`;
    if (await isDangling(path)) await tree.remove(path);
  }
  const shown = new Set([
    ...(await tree.list("/sys/class/block")),
    ...(await tree.list("/sys/class/nvme")),
  ]);
  for (const name of await tree.list("/dev")) {
    if (name.startsWith("nvme") && !shown.has(name)) await tree.remove(`/dev/${name}`);
  }
}

async function controllerNumber(tree: Tree, device: string): Promise<number> {
  const [own] = await tree.list(`${device}/nvme`);
  if (own !== undefined) return Number(own.slice("nvme".length));
  // A killed process may have left a controller without its entry in /sys/class/nvme.
  const devices = await tree.list(PCI_DEVICES);
  const shown = await Promise.all([
    tree.list("/sys/class/nvme"),
    ...devices.map(async (address) => await tree.list(`${PCI_DEVICES}/${address}/nvme`)),
  ]);
  return lowestFree(numbers(shown.flat(), /^nvme(\d+)$/));
}

function controllerContents(hardware: Hardware, device: string, number: number): Contents {
  return {
    address: `${hardware.address}\n`,
    cntlid: "0\n",
    cntrltype: "io\n",
    dev: `${CONTROLLER_MAJOR}:${number}\n`,
    device: { linkTo: device },
    firmware_rev: "1.0     \n",
    model: `${hardware.model.padEnd(40)}\n`,
    numa_node: "-1\n",
    serial: `${hardware.serial.padEnd(20)}\n`,
    state: "connecting\n",
    subsysnqn: `${subsystemNqn(hardware)}\n`,
    subsystem: { linkTo: "/sys/class/nvme" },
    transport: "pcie\n",
  };
}

function subsystemNqn({ serial, subsystem }: Hardware): string {
  return `nqn.2019-08.org.qemu:${subsystem ?? serial}`;
}

async function showSubsystem(
  tree: Tree,
  hardware: Hardware,
  controller: string,
  name: string,
): Promise<number> {
  for (const subsystem of await tree.list(SUBSYSTEMS)) {
    if ((await tree.list(`${SUBSYSTEMS}/${subsystem}`)).includes(name)) {
      await tree.link(`/sys/class/nvme-subsystem/${subsystem}`, `${SUBSYSTEMS}/${subsystem}`);
      return Number(subsystem.slice("nvme-subsys".length));
    }
  }
  const shared = await sharedSubsystem(tree, hardware);
  if (shared !== undefined) {
    await tree.link(`${SUBSYSTEMS}/nvme-subsys${shared}/${name}`, controller);
    return shared;
  }
  const taken = numbers(await tree.list(SUBSYSTEMS), /^nvme-subsys(\d+)$/);
  const number = lowestFree(new Set([...taken, ...(await stillReferenced(tree))]));
  const subsystem = `nvme-subsys${number}`;
  await tree.place(`${SUBSYSTEMS}/${subsystem}`, {
    firmware_rev: "1.0     \n",
    iopolicy: "numa\n",
    model: `${hardware.model.padEnd(40)}\n`,
    [name]: { linkTo: controller },
    serial: `${hardware.serial.padEnd(20)}\n`,
    subsysnqn: `${subsystemNqn(hardware)}\n`,
    subsystem: { linkTo: "/sys/class/nvme-subsystem" },
    subsystype: "nvm\n",
  });
  await tree.link(`/sys/class/nvme-subsystem/${subsystem}`, `${SUBSYSTEMS}/${subsystem}`);
  return number;
}

/** The number of the subsystem that another controller of this one has brought. */
async function sharedSubsystem(tree: Tree, hardware: Hardware): Promise<number | undefined> {
  if (hardware.subsystem === undefined) return undefined;
  for (const name of await tree.list(SUBSYSTEMS)) {
    const nqn = await tree.read(`${SUBSYSTEMS}/${name}/subsysnqn`);
    if (nqn?.trim() === subsystemNqn(hardware)) return Number(name.slice("nvme-subsys".length));
  }
  return undefined;
}

/**
 * Numbers of removed disks that a mount or swap still references: the kernel does not reuse them.
 */
async function stillReferenced(tree: Tree): Promise<ReadonlySet<number>> {
  const texts = await Promise.all([tree.read("/proc/mounts"), tree.read("/proc/swaps")]);
  const matches = texts.join("\n").matchAll(/^\/dev\/nvme(\d+)n\d+/gm);
  return new Set([...matches].map(([, digits]) => Number(digits)));
}

type Block = {
  /** The controller; with several of them, their subsystem. */
  readonly parent: string;
  readonly block: string;
  readonly namespace: NamespaceHardware;
};

/** The hidden device of a namespace that several controllers reach: it cannot be opened. */
async function showPath(tree: Tree, { parent, block, namespace }: Block): Promise<void> {
  const path = `${parent}/${block}`;
  const { dev: _dev, ...contents } = blockContents({ parent, block, namespace }, [], 0);
  await tree.place(path, { ...contents, hidden: "1\n" });
  await tree.link(`/sys/class/block/${block}`, path);
  await tree.link(`/sys/block/${block}`, path);
}

async function showBlock(tree: Tree, { parent, block, namespace }: Block): Promise<void> {
  const path = `${parent}/${block}`;
  if ((await tree.list(path)).length === 0) {
    const { image, blockSizeBytes } = namespace;
    const partitions = await scanPartitions(tree.at(image), blockSizeBytes);
    const minor = lowestFree(await usedMinors(tree));
    await tree.place(path, blockContents({ parent, block, namespace }, partitions, minor));
  }
  await tree.link(`/sys/class/block/${block}`, path);
  await tree.link(`/sys/block/${block}`, path);
  for (const name of (await tree.list(path)).filter((child) => child.startsWith(`${block}p`))) {
    await tree.link(`/sys/class/block/${name}`, `${path}/${name}`);
    await tree.writeNew(`/dev/${name}`, "");
  }
  await tree.link(`/dev/${block}`, namespace.image);
}

function blockContents(
  { parent, block, namespace }: Block,
  partitions: readonly Partition[],
  minor: number,
): Contents {
  const unit = `${namespace.blockSizeBytes}\n`;
  const parts = partitions.map(({ number, startBytes, sizeBytes }) => [
    `${block}p${number}`,
    {
      dev: `${BLOCK_MAJOR}:${minor + number}\n`,
      holders: {},
      partition: `${number}\n`,
      ro: "0\n",
      size: `${sizeBytes / 512n}\n`,
      start: `${startBytes / 512n}\n`,
      subsystem: { linkTo: "/sys/class/block" },
    } satisfies Contents,
  ]);
  return {
    dev: `${BLOCK_MAJOR}:${minor}\n`,
    device: { linkTo: parent },
    ...(namespace.eui64 === undefined ? {} : { eui: `${spaced(namespace.eui64)}\n` }),
    hidden: "0\n",
    holders: {},
    ...(namespace.nguid === undefined ? {} : { nguid: `${dashed(namespace.nguid)}\n` }),
    nsid: `${namespace.nsid}\n`,
    queue: { hw_sector_size: unit, logical_block_size: unit, physical_block_size: unit },
    removable: "0\n",
    ro: "0\n",
    size: `${namespace.sizeBytes / 512n}\n`,
    slaves: {},
    subsystem: { linkTo: "/sys/class/block" },
    ...Object.fromEntries(parts),
  };
}

/** As the kernel prints an EUI64: bytes, apart. */
function spaced(hex: string): string {
  return hex.match(/../g)?.join(" ") ?? "";
}

/** As the kernel prints an NGUID: like a UUID. */
function dashed(hex: string): string {
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** Partitions use the minors after that of their disk, so each disk reserves five. */
async function usedMinors(tree: Tree): Promise<ReadonlySet<number>> {
  const names = await tree.list("/sys/class/block");
  const devs = await Promise.all(
    names.map(async (name) => await tree.read(`/sys/class/block/${name}/dev`)),
  );
  const used = devs.flatMap((dev) => {
    const [major, minor] = (dev ?? "").trim().split(":").map(Number);
    return major === BLOCK_MAJOR && minor !== undefined ? [minor] : [];
  });
  return new Set(used.flatMap((minor) => [0, 1, 2, 3, 4].map((below) => minor - below)));
}

function numbers(names: readonly string[], pattern: RegExp): ReadonlySet<number> {
  const found = names
    .map((name) => pattern.exec(name)?.[1])
    .filter((digits) => digits !== undefined);
  return new Set(found.map(Number));
}

function lowestFree(taken: ReadonlySet<number>): number {
  let number = 0;
  while (taken.has(number)) number += 1;
  return number;
}
