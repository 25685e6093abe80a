// What is said of a disk whose free clusters may hold old bytes: its conditions, the waits of its volumes,
// refusals and explanations all say the same (docs/architecture.md#r7-tenants-and-free-space). Pure.
import { formatBytes } from "./bytes.ts";
import type { DiskRow } from "./disk.ts";
import type { Wait } from "./wait.ts";

/** A disk in texts for operators. */
export function diskName({ serial, id }: { readonly serial: string; readonly id: string }): string {
  return `disk ${serial} (${id})`;
}

export type DirtyDisk = Pick<DiskRow, "id" | "serial" | "zeroRequestedTime" | "zeroing">;

export type ZeroingFacts = {
  /** Hosts may return clusters to the store, by discards, with what stands in them. */
  readonly hostsMayFree: boolean;
  /** The agent zeroes free space without being asked. */
  readonly zeroesByItself: boolean;
};

export type Dirt = Pick<Wait, "cure" | "waits"> & {
  /** One word for machines. */
  readonly reason: "HostsMayFree" | "BeingZeroed" | "NotZeroed";
  /** Without its subject: `are being zeroed`. */
  readonly found: string;
};

/** Why the free clusters are not known to be zeroed, and who ends that. */
export function freeSpaceDirt(
  disk: DirtyDisk,
  { hostsMayFree, zeroesByItself }: ZeroingFacts,
): Dirt {
  if (hostsMayFree) {
    return {
      reason: "HostsMayFree",
      found: "may hold what hosts have discarded, and nobody has asserted that the disk zeroes it",
      cure:
        `if the drive zeroes what is discarded, call AdmitDisk with discard_zeroes, then ` +
        `ZeroFreeSpace; else restart the target, as SPDK 26.01 or later, and call ZeroFreeSpace`,
      waits: "waits until hosts free no clusters any more",
    };
  }
  if (zeroesByItself || disk.zeroRequestedTime !== undefined) {
    const { zeroing } = disk;
    const far =
      zeroing === undefined
        ? ""
        : ` (${formatBytes(zeroing.zeroedBytes)} of ${formatBytes(zeroing.totalBytes)})`;
    return {
      reason: "BeingZeroed",
      found: `may hold bytes of deleted volumes, and are being zeroed${far}`,
      cure: "wait for it",
      waits: "waits for the free space to be zeroed",
    };
  }
  return {
    reason: "NotZeroed",
    found: "may hold bytes of deleted volumes",
    cure: `call ZeroFreeSpace {"diskId": "${disk.id}"}`,
    waits: "waits for ZeroFreeSpace",
  };
}
