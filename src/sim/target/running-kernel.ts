// Access to the running kernel (--root /): as a real target does, the simulated one attaches what vfio-pci
// has, keeps the vfio group of it open, and lets go what is taken from vfio-pci. It reads and writes nothing
// of the drives.
import { closeSync, constants, existsSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { driverOf, groupOf, isViable } from "./pcie-root.ts";

const DEVICES = "/sys/bus/pci/devices";

/** The vfio groups of the functions that are attached. */
export class RunningKernel {
  readonly #groups = new Map<string, { readonly fd: number; readonly addresses: Set<string> }>();

  readonly #slots: string | undefined;

  /** Folder with a file for each function whose drive was replaced: the id of the drive that it has now. */
  constructor(slots: string | undefined) {
    this.#slots = slots;
  }

  /** A group that another process has open cannot be opened. */
  driveAt(address: string): { readonly id: string } | "by address" | undefined {
    const device = `${DEVICES}/${address}`;
    if (driverOf(device) !== "vfio-pci" || !isViable(device)) return undefined;
    const group = groupOf(device);
    if (!this.#groups.has(group)) {
      const fd = open(group);
      if (fd === undefined) return undefined;
      closeSync(fd);
    }
    return this.#replaced(address) ?? "by address";
  }

  /** Whether vfio-pci has it still. The kernel takes the driver away before it waits for the user. */
  hasDriver(address: string): boolean {
    return driverOf(`${DEVICES}/${address}`) === "vfio-pci";
  }

  #replaced(address: string): { readonly id: string } | undefined {
    const file = this.#slots === undefined ? undefined : join(this.#slots, address);
    if (file === undefined || !existsSync(file)) return undefined;
    return { id: readFileSync(file, "utf8").trim() };
  }

  groupUse(address: string, used: boolean): void {
    if (!used) {
      this.#close(address);
      return;
    }
    const group = groupOf(`${DEVICES}/${address}`);
    const known = this.#groups.get(group);
    const fd = known?.fd ?? open(group);
    if (fd === undefined) throw new Error(`/dev/vfio/${group} was opened by another process`);
    this.#groups.set(group, { fd, addresses: new Set([...(known?.addresses ?? []), address]) });
  }

  /** The function may be gone meanwhile, and with it the link to its group. */
  #close(address: string): void {
    for (const [group, { fd, addresses }] of this.#groups) {
      if (!addresses.delete(address) || addresses.size > 0) continue;
      closeSync(fd);
      this.#groups.delete(group);
    }
  }
}

function open(group: string): number | undefined {
  try {
    return openSync(`/dev/vfio/${group}`, constants.O_RDWR);
  } catch {
    return undefined;
  }
}
