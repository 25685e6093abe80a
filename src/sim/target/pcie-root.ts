// Access to a simulated kernel (--root): a PCIe function can be attached only while its whole IOMMU
// group is bound to vfio-pci and open in no other process, and a store writes its signature to the
// start of the drive's image.
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  writeSync,
} from "node:fs";
import { basename, join } from "node:path";
import { hardwarePath, imagePath, parseHardware } from "../kernel/hardware.ts";
import { closeGroup, groupIsOpen, openGroup } from "../kernel/vfio-users.ts";

const MARK = Buffer.from("SPDKBLOB", "latin1");

/** SPDK names the thread of its first reactor so, and the process with it. */
const COMMAND = "reactor_0";

/** The drive at a function that can be attached: bound to vfio-pci, and its IOMMU group is viable. */
export function driveAt(root: string, address: string): { readonly id: string } | undefined {
  const device = join(root, "sys/bus/pci/devices", address);
  if (driverOf(device) !== "vfio-pci") return undefined;
  const file = join(root, hardwarePath(address));
  if (!existsSync(file) || !isViable(device) || isHeldByOther(root, device)) return undefined;
  const { drive, serial } = parseHardware(readFileSync(file, "utf8"));
  return { id: drive ?? serial };
}

/** Whether no function of the device's IOMMU group has a driver that keeps vfio from using the group. */
export function isViable(device: string): boolean {
  const group = join(device, "iommu_group/devices");
  if (!existsSync(group)) return false;
  return readdirSync(group).every((member) => {
    const driver = driverOf(join(group, member));
    return driver === undefined || driver === "vfio-pci" || driver === "pcieport";
  });
}

function isHeldByOther(root: string, device: string): boolean {
  const group = groupOf(device);
  if (!groupIsOpen(root, group)) return false;
  return Number(readFileSync(join(root, `var/sim/open-groups/${group}`), "utf8")) !== process.pid;
}

/** Which vfio groups this target has open: those of its attached functions. */
export class GroupUse {
  readonly #root: string;
  readonly #attached = new Map<string, string>();

  constructor(root: string) {
    this.#root = root;
  }

  set(address: string, used: boolean): void {
    const known = this.#attached.get(address);
    if (used) {
      const group = groupOf(join(this.#root, "sys/bus/pci/devices", address));
      this.#attached.set(address, group);
      openGroup(this.#root, group, { pid: process.pid, command: COMMAND });
    } else if (known !== undefined) {
      this.#attached.delete(address);
      if ([...this.#attached.values()].includes(known)) return;
      closeGroup(this.#root, known, process.pid);
    }
  }
}

/** Writes or erases the blobstore signature on the image of a namespace. */
export function markImage(
  root: string,
  { id, nsid }: { readonly id: string; readonly nsid: number },
  marked: boolean,
): void {
  const image = join(root, imagePath(id, nsid));
  if (!existsSync(image)) return;
  const file = openSync(image, "r+");
  try {
    writeSync(file, marked ? MARK : Buffer.alloc(MARK.length), 0, MARK.length, 0);
  } finally {
    closeSync(file);
  }
}

/** Whether a store's signature is still there: what a kernel has overwritten is no store any more. */
export function isMarked(
  root: string,
  { id, nsid }: { readonly id: string; readonly nsid: number },
): boolean {
  const image = join(root, imagePath(id, nsid));
  if (!existsSync(image)) return true;
  const file = openSync(image, "r");
  try {
    const bytes = Buffer.alloc(MARK.length);
    readSync(file, bytes, 0, bytes.length, 0);
    return MARK.equals(bytes);
  } finally {
    closeSync(file);
  }
}

export function groupOf(device: string): string {
  return basename(readlinkSync(join(device, "iommu_group")));
}

export function driverOf(device: string): string | undefined {
  try {
    return basename(readlinkSync(join(device, "driver")));
  } catch {
    return undefined;
  }
}
