// Space of a disk and of the node, in bytes: what was observed last, which also Explain and metrics show.
import { diskState, promisableBytes, type DiskRow } from "../model/disk.ts";
import { orphanBytes } from "../model/orphan.ts";
import type { Agent } from "./agent.ts";

export type SpaceBytes = {
  readonly totalBytes: bigint;
  readonly freeBytes: bigint;
  /** Clusters that hold data. */
  readonly allocatedBytes: bigint;
  /** Of allocatedBytes: what only snapshots hold. */
  readonly snapshotBytes: bigint;
  /** Of allocatedBytes: what lvols without a row hold. */
  readonly orphanBytes: bigint;
  readonly promisedBytes: bigint;
};

/** Over-commit is included in totalBytes. */
export type NodeCapacity = SpaceBytes & { readonly exports: number };

/** Space of the lvstore of each disk, by disk id. */
export function spaceOfDisks(agent: Agent, disks: readonly DiskRow[]): Map<string, SpaceBytes> {
  const orphans = orphanBytes(agent.orphans.known());
  return new Map(
    disks.map((row) => {
      const { space } = agent.diskReadiness(row);
      const { clusterBytes = 0n, totalClusters = 0n, freeClusters = 0n } = space ?? {};
      const bytes = {
        totalBytes: totalClusters * clusterBytes,
        freeBytes: freeClusters * clusterBytes,
        allocatedBytes: (totalClusters - freeClusters) * clusterBytes,
        snapshotBytes: snapshotClusters(agent, row.id) * clusterBytes,
        orphanBytes: orphans.get(row.id) ?? 0n,
        promisedBytes: row.promisedBytes,
      };
      return [row.id, bytes];
    }),
  );
}

/** Clusters that belong to snapshots: what they share with each other counts once, for the oldest. */
function snapshotClusters({ rows, snapshotView }: Agent, diskId: string): bigint {
  let clusters = 0n;
  for (const id of rows.snapshots.idsOn(diskId)) {
    const row = rows.snapshots.get(id);
    const observed = row && snapshotView(row).observed;
    if (observed?.kind === "present") clusters += observed.allocatedClusters ?? 0n;
  }
  return clusters;
}

/** Bytes of the disks that are UP; promised bytes and exports of all disks. */
export function nodeCapacity(agent: Agent): NodeCapacity {
  const disks = [...agent.rows.disks()];
  const up = disks.filter((row) => diskState(row, agent.diskReadiness(row)) === "UP");
  const spaces = [...spaceOfDisks(agent, up).values()];
  const sum = (sizes: readonly bigint[]) => sizes.reduce((total, size) => total + size, 0n);
  return {
    totalBytes: sum(up.map((disk) => promisableBytes(disk, agent.overcommit))),
    freeBytes: sum(spaces.map((space) => space.freeBytes)),
    allocatedBytes: sum(spaces.map((space) => space.allocatedBytes)),
    snapshotBytes: sum(spaces.map((space) => space.snapshotBytes)),
    orphanBytes: sum([...orphanBytes(agent.orphans.known()).values()]),
    promisedBytes: sum(disks.map((disk) => disk.promisedBytes)),
    exports: disks.reduce((count, disk) => count + disk.lvolCount, 0),
  };
}
