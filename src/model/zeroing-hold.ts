// Whether the exports of volumes that take clusters are held back until the free clusters of their disk are
// zeroed: else their hosts may be shown old bytes around what they write
// (docs/architecture.md#exports-held-back). Pure.
import type { ObservedLvol } from "./lvol.ts";

export type HoldFacts = {
  /** The longest hold; 0: none, Infinity: as long as it takes. */
  readonly holdMs: number;
  /** When the disk's store was loaded: no export can be made before. */
  readonly since: Date;
  readonly now: Date;
  /** Zeroing was asked for, or is done without. */
  readonly isWanted: boolean;
  /** To be zeroed. */
  readonly bytesLeft: bigint;
  /** Bytes per second; undefined: not known yet. */
  readonly rate: bigint | undefined;
};

/** Between two looks at whether a hold still makes sense. */
const LOOK_MS = 500;

/** until: by when it ends in any case; undefined: once the free space is zeroed. */
export type Hold = { readonly until: Date | undefined };

/**
 * Of a disk whose free clusters may hold old bytes; undefined: nothing is held back. What cannot be done
 * within the longest hold is not waited for, also if that shows only later.
 */
export function zeroingHold(facts: HoldFacts): Hold | undefined {
  const { holdMs, since, now, isWanted, bytesLeft, rate } = facts;
  if (holdMs === Number.POSITIVE_INFINITY) return { until: undefined };
  const leftMs = since.getTime() + holdMs - now.getTime();
  if (!isWanted || leftMs <= 0) return undefined;
  if (rate !== undefined && Number(bytesLeft) * 1_000 > Number(rate) * leftMs) return undefined;
  return { until: new Date(now.getTime() + leftMs) };
}

/** When a held export is to be looked at again although nothing wakes it. */
export function nextLook({ until }: Hold, now: Date): Date | undefined {
  if (until === undefined) return undefined;
  return new Date(Math.min(until.getTime(), now.getTime() + LOOK_MS));
}

/** Whether writes to the lvol may still take clusters of its disk. */
export function takesClusters(
  lvol: ObservedLvol | undefined,
  clusterBytes: bigint | undefined,
): boolean {
  if (lvol?.kind !== "present" || !lvol.thin) return false;
  const { allocatedClusters, sizeBytes } = lvol;
  if (allocatedClusters === undefined || clusterBytes === undefined) return true;
  return allocatedClusters * clusterBytes < sizeBytes;
}
