// The emulated NVMe drives of a machine.
import { open } from "node:fs/promises";
import { join } from "node:path";

const MIB = 1024n * 1024n;
/** As QEMU's controllers call themselves. */
const MODEL = "QEMU NVMe Ctrl";
/** Blocks of every namespace that does not say otherwise. */
const BLOCK_BYTES = 512;
/** Slot of the first hot-plug port; port N leads to bus N. */
const FIRST_PORT_SLOT = 0x18;

export type EmulatedNamespace = {
  readonly sizeBytes: bigint;
  readonly blockSizeBytes?: 512 | 4096;
  readonly eui64?: bigint;
};

/** Bytes that are on the first namespace before the machine boots; a negative offset is from the end. */
export type Written = { readonly at: number; readonly bytes: Buffer };

export type EmulatedDrive = {
  /** Its name in QEMU, where another one has the same serial; default: the serial. */
  readonly name?: string;
  readonly serial: string;
  /** Slot, and function for slots with several: "4" or "8.1". Functions of a slot share an IOMMU group. */
  readonly slot: string;
  /** The first of several functions of its slot. */
  readonly multifunction?: boolean;
  /** The next function of its slot is no drive, and has a driver. */
  readonly neighbour?: boolean;
  /** Drives of one NVM subsystem share their namespaces; default: a subsystem named by the serial. */
  readonly subsystem?: string;
  readonly namespaces: readonly EmulatedNamespace[];
  readonly written?: readonly Written[];
};

/** A drive in a hot-plug port, with one namespace. */
export type PluggableDrive = {
  readonly name?: string;
  readonly serial: string;
  readonly port: number;
  /** Not there when the machine boots. */
  readonly isAway?: boolean;
  readonly namespaces: readonly [EmulatedNamespace];
};

/** A blank drive with one namespace. */
export function blank(serial: string, slot: string, sizeBytes = 512n * MIB): EmulatedDrive {
  return { serial, slot, namespaces: [{ sizeBytes }] };
}

/** A blank drive that can be pulled out. */
export function pluggable(
  serial: string,
  port: number,
  change: Partial<PluggableDrive> = {},
): PluggableDrive {
  return { serial, port, namespaces: [{ sizeBytes: 512n * MIB }], ...change };
}

export function addressOf(drive: EmulatedDrive | PluggableDrive): string {
  if ("port" in drive) return `0000:${drive.port.toString(16).padStart(2, "0")}:00.0`;
  const [device = "", pciFunction = "0"] = drive.slot.split(".");
  return `0000:00:${Number(device).toString(16).padStart(2, "0")}.${pciFunction}`;
}

export function nameOf({ name, serial }: EmulatedDrive | PluggableDrive): string {
  return name ?? serial;
}

/** Makes the drives' images in the folder; returns QEMU's arguments. */
export async function driveArguments(
  folder: string,
  drives: readonly (EmulatedDrive | PluggableDrive)[],
): Promise<readonly string[]> {
  const args = [...subsystems(drives), ...ports(drives)];
  for (const drive of drives) {
    args.push(...(await images(folder, drive)));
    args.push(...("port" in drive ? pluggableDevice(drive) : fixedDevices(drive)));
  }
  return args;
}

function subsystems(drives: readonly (EmulatedDrive | PluggableDrive)[]): readonly string[] {
  const used = drives.flatMap((drive) => ("port" in drive ? [] : (drive.subsystem ?? [])));
  const names = new Set(used);
  return [...names].flatMap((name) => ["-device", `nvme-subsys,id=${name},nqn=${name}`]);
}

function ports(drives: readonly (EmulatedDrive | PluggableDrive)[]): readonly string[] {
  const used = drives.flatMap((drive) => ("port" in drive ? drive.port : []));
  const count = Math.max(0, ...used);
  return Array.from({ length: count }, (_, index) => {
    const place = `addr=${(FIRST_PORT_SLOT + index).toString(16)}.0,chassis=${index + 1}`;
    return ["-device", `pcie-root-port,id=port${index + 1},${place}`];
  }).flat();
}

/** The images of the namespaces, and QEMU's block nodes for them. */
async function images(
  folder: string,
  drive: EmulatedDrive | PluggableDrive,
): Promise<readonly string[]> {
  const args: string[] = [];
  for (const [index, { sizeBytes }] of drive.namespaces.entries()) {
    const node = nodeOf(drive, index + 1);
    const file = join(folder, `${node}.img`);
    const written = index === 0 && "written" in drive ? drive.written : undefined;
    await makeImage(file, sizeBytes, written ?? []);
    const options = `cache.no-flush=on,discard=unmap,file.driver=file,file.filename=${file}`;
    args.push("-blockdev", `driver=raw,node-name=${node},${options}`);
  }
  return args;
}

function nodeOf(drive: EmulatedDrive | PluggableDrive, nsid: number): string {
  return `${nameOf(drive)}-${nsid}`;
}

function fixedDevices(drive: EmulatedDrive): readonly string[] {
  const { serial, multifunction, neighbour, subsystem } = drive;
  const [device = "", pciFunction = "0"] = drive.slot.split(".");
  const slot = `addr=${Number(device).toString(16)}.${pciFunction}`;
  const isFirst = multifunction === true || neighbour === true;
  const options = isFirst ? [slot, "multifunction=on"] : [slot];
  if (subsystem !== undefined) options.push(`subsys=${subsystem}`);
  const name = nameOf(drive);
  const args = ["-device", ["nvme", `id=${name}`, `serial=${serial}`, ...options].join(",")];
  if (neighbour === true) {
    args.push("-device", `virtio-rng-pci,addr=${Number(device).toString(16)}.1`);
  }
  for (const [index, namespace] of drive.namespaces.entries()) {
    const nsid = index + 1;
    const blocks = `logical_block_size=${blockBytes(namespace)},physical_block_size=${blockBytes(namespace)}`;
    const eui64 = namespace.eui64 === undefined ? "" : `,eui64=${namespace.eui64}`;
    const node = nodeOf(drive, nsid);
    args.push("-device", `nvme-ns,bus=${name},drive=${node},nsid=${nsid},${blocks}${eui64}`);
  }
  return args;
}

function pluggableDevice(drive: PluggableDrive): readonly string[] {
  if (drive.isAway === true) return [];
  const options = Object.entries(pluggedDevice(drive));
  const [, driver = ""] = options.find(([name]) => name === "driver") ?? [];
  const others = options.filter(([name]) => name !== "driver");
  return ["-device", [driver, ...others.map(([name, value]) => `${name}=${value}`)].join(",")];
}

/** QEMU's device, as `device_add` has it. */
export function pluggedDevice(drive: PluggableDrive): Readonly<Record<string, string>> {
  const { serial, port } = drive;
  return {
    driver: "nvme",
    id: nameOf(drive),
    serial,
    bus: `port${port}`,
    drive: nodeOf(drive, 1),
  };
}

async function makeImage(
  path: string,
  sizeBytes: bigint,
  written: readonly Written[],
): Promise<void> {
  await using file = await open(path, "w");
  await file.truncate(Number(sizeBytes));
  for (const { at, bytes } of written) {
    await file.write(bytes, 0, bytes.length, at < 0 ? Number(sizeBytes) + at : at);
  }
}

function blockBytes({ blockSizeBytes }: EmulatedNamespace): number {
  return blockSizeBytes ?? BLOCK_BYTES;
}

/** The drives as `sim --disks` has them: the simulated target shows what the kernel shows. */
export function simulatedDisks(
  drives: readonly (EmulatedDrive | PluggableDrive)[],
): readonly object[] {
  return drives.flatMap((drive) =>
    drive.namespaces.map((namespace, index) => ({
      id: nameOf(drive),
      serial: drive.serial,
      model: MODEL,
      nsid: index + 1,
      block_size: blockBytes(namespace),
      num_blocks: Number(namespace.sizeBytes) / blockBytes(namespace),
      traddr: addressOf(drive),
    })),
  );
}
