// The LED that shows people where a drive is. Two kinds, by what the kernel lets a drive's slot be known with:
//
// - npem: Native PCIe Enclosure Management, kernel 6.13 and later: an LED below the function or the port
//   above it, `leds/ADDRESS:enclosure:locate`. The port is there while its slot is empty.
// - enclosure: a slot of an enclosure (SES): `/sys/class/enclosure/NAME/SLOT`, with a link `device` to the
//   drive. An empty slot has none.
import type { LedKind } from "../model/locate.ts";
import type { Kernel } from "./kernel.ts";

/** path: the attribute that is 1 while the LED is on. */
export type Led = { readonly kind: LedKind; readonly path: string };

const PCI = "/sys/bus/pci/devices";
const ENCLOSURES = "/sys/class/enclosure";
const NPEM = /:enclosure:locate$/;
const ADDRESS = /^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/;

/** Slots of enclosures by the address of the function in them. */
export async function enclosureSlots(kernel: Kernel): Promise<ReadonlyMap<string, Led>> {
  const slots = new Map<string, Led>();
  for (const enclosure of await kernel.list(ENCLOSURES)) {
    for (const slot of await kernel.list(`${ENCLOSURES}/${enclosure}`)) {
      const at = `${ENCLOSURES}/${enclosure}/${slot}`;
      // Of a drive, its controller or its block device.
      const device = await kernel.realPath(`${at}/device`);
      const address = device?.split("/").findLast((part) => ADDRESS.test(part));
      if (address !== undefined) slots.set(address, { kind: "enclosure", path: `${at}/locate` });
    }
  }
  return slots;
}

/** The LED of NPEM of a function or of the port above it; undefined: neither shows one. */
export async function npemLed(kernel: Kernel, address: string): Promise<Led | undefined> {
  for (const device of [`${PCI}/${address}`, await portAbove(kernel, address)]) {
    if (device === undefined) continue;
    const name = (await kernel.list(`${device}/leds`)).find((led) => NPEM.test(led));
    if (name !== undefined) return { kind: "npem", path: `${device}/leds/${name}/brightness` };
  }
  return undefined;
}

/** By its bus, which is listed also while nothing is on it. */
async function portAbove(kernel: Kernel, address: string): Promise<string | undefined> {
  const bus = address.slice(0, address.lastIndexOf(":"));
  const path = await kernel.realPath(`/sys/class/pci_bus/${bus}`);
  const port = path?.split("/").slice(0, -2);
  return port !== undefined && ADDRESS.test(port.at(-1) ?? "") ? port.join("/") : undefined;
}

/** Undefined: the attribute is not there, or not readable. */
export async function readLed(kernel: Kernel, { path }: Led): Promise<boolean | undefined> {
  const text = await kernel.read(path).catch(() => undefined);
  return text === undefined || !/^\d+$/.test(text) ? undefined : text !== "0";
}

/** Returns what the LED says afterwards: not every write that is taken has an effect. */
export async function switchLed(
  kernel: Kernel,
  led: Led,
  on: boolean,
): Promise<boolean | undefined> {
  await kernel.write(led.path, on ? "1" : "0");
  return await readLed(kernel, led);
}
