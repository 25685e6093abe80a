// Slots with a locate LED, as the kernel shows them: by NPEM of the function in them or of the port above it
// (docs/kernel.md#slots), or as slots of an enclosure. What is no part of the function stays when that is
// pulled out.
import { devicePath, type Hardware } from "./hardware.ts";
import type { Contents, Tree } from "./tree.ts";

/** function, port: NPEM of that; enclosure: a slot of one. */
export type SlotLed = "function" | "port" | "enclosure";

const ENCLOSURE = "/sys/devices/virtual/enclosure/0:0:0:0";
const CLASS = "/sys/class/enclosure/0:0:0:0";

/** The attribute of such an LED. */
export function isLed(path: string): boolean {
  return path.startsWith(`${ENCLOSURE}/`)
    ? path.endsWith("/locate")
    : path.endsWith(":enclosure:locate/brightness");
}

/** What the folder of the function has. */
export function ledsOf(address: string): Contents {
  return {
    leds: { [`${address}:enclosure:locate`]: { brightness: "0\n", max_brightness: "1\n" } },
  };
}

/** What is around the function. */
export async function placeSlot(
  tree: Tree,
  hardware: Pick<Hardware, "address">,
  led: SlotLed | undefined,
): Promise<void> {
  const { address } = hardware;
  if (led === "port") {
    const bus = address.slice(0, address.lastIndexOf(":"));
    const port = `0000:00:${bus.slice(-2)}.0`;
    const path = `/sys/devices/pci0000:00/${port}`;
    await tree.place(path, { class: "0x060400\n", pci_bus: { [bus]: {} }, ...ledsOf(port) });
    await tree.link(`/sys/class/pci_bus/${bus}`, `${path}/pci_bus/${bus}`);
  } else if (led === "enclosure") {
    const slot = `Slot ${address.slice(5, 7)}`;
    await tree.place(`${ENCLOSURE}/${slot}`, { fault: "0\n", locate: "0\n", status: "OK\n" });
    await tree.link(`${ENCLOSURE}/${slot}/device`, devicePath(hardware));
    await tree.link(CLASS, ENCLOSURE);
  }
}

/** The slot is there, and does not say what was in it. */
export async function emptySlot(tree: Tree, { address }: Pick<Hardware, "address">): Promise<void> {
  await tree.remove(`${ENCLOSURE}/Slot ${address.slice(5, 7)}/device`);
}
