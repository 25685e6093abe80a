// What this process found on disks when it took them. Kept in memory only: a restart inspects again.
//
// It holds as long as the very claim does: once a function was seen to be gone, or without vfio-pci, others may
// have used the disk. It ends when a store was made on the disk, too.
import type { NvmeFunction } from "../../sysfs/nvme.ts";
import { VFIO } from "./closure-rules.ts";

export type Found =
  /** Blank under the kernel driver: it may be formatted. */
  | "blank"
  /** Attached without being found blank, and no lvstore was loaded: to be given back and inspected. */
  | "empty";

type Claim = {
  readonly found: Found;
  /** Of its functions. */
  readonly addresses: readonly string[];
};

/** By disk id. */
export type Claims = ReadonlyMap<string, Claim>;

export class ClaimMemory {
  readonly #claims = new Map<string, Claim>();

  add(diskId: string, found: Found, addresses: readonly string[]): void {
    this.#claims.set(diskId, { found, addresses });
  }

  end(diskId: string): void {
    this.#claims.delete(diskId);
  }

  /** Of a disk at the place where it is now. */
  has(diskId: string, found: Found, address: string | undefined): boolean {
    const claim = this.#claims.get(diskId);
    return claim?.found === found && address !== undefined && claim.addresses.includes(address);
  }

  /** Those that hold now. */
  all(): Claims {
    return new Map(this.#claims);
  }

  /**
   * Ends claims that the kernel does not show any more. Only those that held when the listing began: it says nothing
   * of one that was made meanwhile.
   */
  endUnseen(
    before: Claims,
    functions: readonly NvmeFunction[],
    isTaken: (address: string) => boolean,
  ): void {
    const onVfio = functions.filter(({ driver }) => driver === VFIO);
    const held = new Set(onVfio.map(({ pciAddress }) => pciAddress).filter(isTaken));
    for (const [diskId, claim] of before) {
      if (this.#claims.get(diskId) !== claim) continue;
      if (!claim.addresses.every((address) => held.has(address))) this.end(diskId);
    }
  }
}
