// Whether hosts may return clusters of a volume to its store, with what stands in them, by discarding
// them (docs/architecture.md#r7-tenants-and-free-space). Pure.
import type { DiskRow } from "./disk.ts";
import { Refusal } from "./errors.ts";

/**
 * What keeps a host's discards from doing so on the target that is connected.
 * - release: none of its discards does.
 * - subsystem: the limit of a discard, where a subsystem has one below a cluster.
 * - transport: discards are refused.
 * - nothing.
 */
export type DiscardGuard = "release" | "subsystem" | "transport" | "nothing";

export type Isolation = "strict" | "trusted";

type Blocks = Pick<DiskRow, "clusterBytes" | "blockSize">;

/**
 * The limit that a new subsystem of the disk gets, in logical blocks; undefined: none. Only whole
 * clusters are returned, and no range of half a cluster covers one.
 */
export function discardLimit(
  guard: DiscardGuard | undefined,
  isolation: Isolation,
  disk: Blocks | undefined,
): number | undefined {
  if (guard !== "subsystem" || isolation === "trusted") return undefined;
  const { clusterBytes = 0n, blockSize = 0 } = disk ?? {};
  const blocks = blockSize === 0 ? 0 : Number(clusterBytes / 2n / BigInt(blockSize));
  return Math.max(blocks, 1);
}

/** Whether discards through a subsystem with this limit return clusters of a thin volume. */
export function subsystemFrees(
  guard: DiscardGuard | undefined,
  dmrsl: number | undefined,
  { clusterBytes, blockSize }: Blocks,
): boolean {
  switch (guard) {
    case undefined:
    case "release":
    case "transport":
      return false;
    case "subsystem":
      if (dmrsl === undefined || clusterBytes === undefined) return true;
      return BigInt(dmrsl) * BigInt(blockSize) >= clusterBytes;
    case "nothing":
      return true;
  }
}

/**
 * Why no thin volume, snapshot or clone may be made on the disk: its clusters could not be told apart
 * from those that hosts have discarded. Undefined if they may.
 */
export function discardRefusal(
  disk: Pick<DiskRow, "id" | "discardZeroes">,
  { guard, isolation }: { readonly guard: DiscardGuard | undefined; readonly isolation: Isolation },
): Refusal | undefined {
  if (guard !== "nothing" || isolation === "trusted" || disk.discardZeroes) return undefined;
  const message =
    `hosts' discards free clusters of thin volumes on this SPDK release, and nobody has asserted ` +
    `that disk ${disk.id} zeroes what is discarded; use THICK, assert it with AdmitDisk, or run ` +
    `SPDK 26.05 or later`;
  return new Refusal("DISCARD_NOT_ZEROING", message, {
    preconditions: [{ subject: `disks/${disk.id}`, description: "discard_zeroes is not asserted" }],
  });
}
