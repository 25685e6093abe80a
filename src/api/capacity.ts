// The room of the node: what its disks that are UP hold, and what is promised of all of them.
import { diskState, promisableBytes } from "../model/disk.ts";
import type { Agent } from "./agent.ts";

export type NodeCapacity = {
  /** Over-commit included. */
  readonly totalBytes: bigint;
  readonly freeBytes: bigint;
  readonly promisedBytes: bigint;
  readonly exports: number;
};

export function nodeCapacity(agent: Agent): NodeCapacity {
  const disks = [...agent.rows.disks()];
  const up = disks.filter((row) => diskState(row, agent.diskReadiness(row)) === "UP");
  const sum = (sizes: readonly bigint[]) => sizes.reduce((total, size) => total + size, 0n);
  return {
    totalBytes: sum(up.map((disk) => promisableBytes(disk, agent.overcommit))),
    freeBytes: sum(up.map((disk) => (disk.freeClusters ?? 0n) * (disk.clusterBytes ?? 0n))),
    promisedBytes: sum(disks.map((disk) => disk.promisedBytes)),
    exports: disks.reduce((count, disk) => count + disk.lvolCount, 0),
  };
}
