// Capacity of the node: total and free bytes of the disks that are UP, promised bytes and exports
// of all disks.
import { diskState, promisableBytes } from "../model/disk.ts";
import { orphanBytes } from "../model/orphan.ts";
import type { Agent } from "./agent.ts";

export type NodeCapacity = {
  /** Over-commit included. */
  readonly totalBytes: bigint;
  readonly freeBytes: bigint;
  readonly promisedBytes: bigint;
  readonly allocatedBytes: bigint;
  /** Filled once there are snapshots. */
  readonly snapshotBytes: bigint;
  /** Of allocatedBytes: what lvols without a row hold. */
  readonly orphanBytes: bigint;
  readonly exports: number;
};

export function nodeCapacity(agent: Agent): NodeCapacity {
  const disks = [...agent.rows.disks()];
  const up = disks.filter((row) => diskState(row, agent.diskReadiness(row)) === "UP");
  const sum = (sizes: readonly bigint[]) => sizes.reduce((total, size) => total + size, 0n);
  return {
    totalBytes: sum(up.map((disk) => promisableBytes(disk, agent.overcommit))),
    freeBytes: sum(up.map((disk) => (disk.freeClusters ?? 0n) * (disk.clusterBytes ?? 0n))),
    allocatedBytes: sum(
      up.map(
        ({ totalClusters = 0n, freeClusters = 0n, clusterBytes = 0n }) =>
          (totalClusters - freeClusters) * clusterBytes,
      ),
    ),
    snapshotBytes: 0n,
    orphanBytes: sum([...orphanBytes(agent.orphans.known()).values()]),
    promisedBytes: sum(disks.map((disk) => disk.promisedBytes)),
    exports: disks.reduce((count, disk) => count + disk.lvolCount, 0),
  };
}
