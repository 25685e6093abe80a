// The hardware of the simulated machine, one JSON file per PCI function. The `driver` link in the
// tree says which driver is bound; everything else in the tree is derived from the two.
import { z } from "zod";
import type { Tree } from "./tree.ts";

const HARDWARE = "/var/sim/hardware";
const DISKS = "/var/sim/disks";

const bytes = z.string().regex(/^\d+$/).transform(BigInt);

const pciFunction = z.object({
  address: z.string(),
  /** PCI class as in /sys: 0x010802 is NVMe. */
  class: z.string(),
  vendor: z.string(),
  device: z.string(),
  /** The driver that binds to it without an override. */
  driver: z.string().optional(),
  iommuGroup: z.string().optional(),
  /** Names the drive and its images where another one shows the same serial. */
  drive: z.string().optional(),
  serial: z.string(),
  model: z.string(),
  /** Drives that are controllers of one subsystem and share its namespaces. */
  subsystem: z.string().optional(),
  /** The nvme driver gives the controller up: its probe fails. */
  rejected: z.boolean().optional(),
  namespaces: z.array(
    z.object({
      nsid: z.number(),
      nguid: z.string().optional(),
      eui64: z.string().optional(),
      sizeBytes: bytes,
      blockSizeBytes: z.number(),
      /** Path of the sparse file with the namespace's bytes. */
      image: z.string(),
    }),
  ),
});

export type Hardware = z.infer<typeof pciFunction>;
export type NamespaceHardware = Hardware["namespaces"][number];

/** Path of the image of a namespace; the simulated target writes its signature there. */
export function imagePath(drive: string, nsid: number): string {
  return nsid === 1 ? `${DISKS}/${drive}.img` : `${DISKS}/${drive}.${nsid}.img`;
}

export function hardwarePath(address: string): string {
  return `${HARDWARE}/${address}.json`;
}

/** Throws on a text that writeHardware did not write. */
export function parseHardware(text: string): Hardware {
  return pciFunction.parse(JSON.parse(text));
}

export function devicePath({ address }: Pick<Hardware, "address">): string {
  return `/sys/devices/pci${address.split(":").slice(0, 2).join(":")}/${address}`;
}

export async function readHardware(tree: Tree, address: string): Promise<Hardware | undefined> {
  const text = await tree.read(hardwarePath(address));
  return text === undefined ? undefined : parseHardware(text);
}

export async function listHardware(tree: Tree): Promise<readonly Hardware[]> {
  const names = (await tree.list(HARDWARE)).filter((name) => name.endsWith(".json"));
  const found = await Promise.all(
    names.map(async (name) => await readHardware(tree, name.slice(0, -".json".length))),
  );
  return found.filter((one) => one !== undefined);
}

export async function writeHardware(tree: Tree, hardware: Hardware): Promise<void> {
  const text = JSON.stringify(
    hardware,
    (_, value: unknown) => (typeof value === "bigint" ? value.toString() : value),
    2,
  );
  await tree.write(hardwarePath(hardware.address), text);
}

export async function removeHardware(tree: Tree, address: string): Promise<void> {
  await tree.remove(hardwarePath(address));
}
