// Access to a simulated kernel (--root): a PCIe function can be attached only while its whole IOMMU
// group is bound to vfio-pci, and a store writes its signature to the start of the drive's image.
import { closeSync, existsSync, openSync, readdirSync, readlinkSync, writeSync } from "node:fs";
import { basename, join } from "node:path";
import { imagePath } from "../kernel/hardware.ts";

const MARK = Buffer.from("SPDKBLOB", "latin1");

/** Whether the function can be attached: bound to vfio-pci, and its IOMMU group is viable. */
export function isAttachable(root: string, address: string): boolean {
  const device = join(root, "sys/bus/pci/devices", address);
  if (driverOf(device) !== "vfio-pci") return false;
  const group = join(device, "iommu_group/devices");
  if (!existsSync(group)) return false;
  return readdirSync(group).every((member) => {
    const driver = driverOf(join(group, member));
    return driver === undefined || driver === "vfio-pci" || driver === "pcieport";
  });
}

/** Writes or erases the blobstore signature on the image of a drive. */
export function markImage(root: string, serial: string, marked: boolean): void {
  const image = join(root, imagePath(serial, 1));
  if (!existsSync(image)) return;
  const file = openSync(image, "r+");
  try {
    writeSync(file, marked ? MARK : Buffer.alloc(MARK.length), 0, MARK.length, 0);
  } finally {
    closeSync(file);
  }
}

function driverOf(device: string): string | undefined {
  try {
    return basename(readlinkSync(join(device, "driver")));
  } catch {
    return undefined;
  }
}
