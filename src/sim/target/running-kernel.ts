// Access to the running kernel (--root /): as a real target does, the simulated one attaches what vfio-pci
// has, and keeps the vfio group of it open. It reads and writes nothing of the drives.
import { closeSync, constants, openSync } from "node:fs";
import { driverOf, groupOf, isViable } from "./pcie-root.ts";

const DEVICES = "/sys/bus/pci/devices";

/** The vfio groups of the functions that are attached. */
export class RunningKernel {
  readonly #groups = new Map<string, { readonly fd: number; readonly addresses: Set<string> }>();

  /** A group that another process has open cannot be opened. */
  driveAt(address: string): "by address" | undefined {
    const device = `${DEVICES}/${address}`;
    if (driverOf(device) !== "vfio-pci" || !isViable(device)) return undefined;
    const group = groupOf(device);
    if (this.#groups.has(group)) return "by address";
    const fd = open(group);
    if (fd === undefined) return undefined;
    closeSync(fd);
    return "by address";
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
