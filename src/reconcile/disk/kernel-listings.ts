// Listings of the kernel's NVMe functions in the order in which they began: steps, calls and the interval
// each list when they need to, side by side, and one may take longer than another that began after it.
import type { Kernel } from "../../sysfs/kernel.ts";
import { listNvme, type NvmeTopology } from "../../sysfs/nvme.ts";

export class KernelListings {
  readonly #kernel: () => Kernel;
  #begun = 0;
  /** The latest that has ended. */
  #latest = 0;

  constructor(kernel: () => Kernel) {
    this.#kernel = kernel;
  }

  /** Undefined: one that began later has ended first, and this one shows what was before that. */
  async list(): Promise<NvmeTopology | undefined> {
    const number = ++this.#begun;
    const topology = await listNvme(this.#kernel());
    if (number < this.#latest) return undefined;
    this.#latest = number;
    return topology;
  }
}
