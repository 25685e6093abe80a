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
  serial: z.string(),
  model: z.string(),
  namespaces: z.array(
    z.object({
      nsid: z.number(),
      sizeBytes: bytes,
      blockSizeBytes: z.number(),
      /** Path of the sparse file with the namespace's bytes. */
      image: z.string(),
    }),
  ),
});

export type Hardware = z.infer<typeof pciFunction>;
export type NamespaceHardware = Hardware["namespaces"][number];

/** Path of the image of a namespace; the simulated target writes its signature to namespace 1. */
export function imagePath(serial: string, nsid: number): string {
  return nsid === 1 ? `${DISKS}/${serial}.img` : `${DISKS}/${serial}.${nsid}.img`;
}

export function devicePath({ address }: Pick<Hardware, "address">): string {
  return `/sys/devices/pci${address.split(":").slice(0, 2).join(":")}/${address}`;
}

export async function readHardware(tree: Tree, address: string): Promise<Hardware | undefined> {
  const text = await tree.read(`${HARDWARE}/${address}.json`);
  return text === undefined ? undefined : pciFunction.parse(JSON.parse(text));
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
  await tree.write(`${HARDWARE}/${hardware.address}.json`, text);
}

export async function removeHardware(tree: Tree, address: string): Promise<void> {
  await tree.remove(`${HARDWARE}/${address}.json`);
}
