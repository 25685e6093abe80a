// The space of a disk: how much of its lvstore is free, and from when on that is too little. Pure.
import { formatBytes } from "./bytes.ts";
import type { Condition } from "./condition.ts";

/** How much is left of a disk, worst last. The first three are recorded, as they have a hysteresis. */
export const SPACE_LEVELS = ["OK", "LOW", "CRITICAL", "FULL"] as const;

export type SpaceLevel = (typeof SPACE_LEVELS)[number];

export const RECORDED_SPACE_LEVELS = ["OK", "LOW", "CRITICAL"] as const;

export type RecordedSpaceLevel = (typeof RECORDED_SPACE_LEVELS)[number];

/** Percent of a disk. */
export type SpaceThresholds = {
  /** Less free than this is LOW. */
  readonly lowPercent: number;
  /** Less free than this is CRITICAL. */
  readonly criticalPercent: number;
  /** A level ends once that much more than its threshold is free. */
  readonly marginPercent: number;
  /** The recorded number of free clusters may be wrong by that much. */
  readonly recordPercent: number;
};

export type DiskSpace = {
  readonly level: SpaceLevel;
  readonly clusterBytes: bigint;
  readonly totalClusters: bigint;
  readonly freeClusters: bigint;
  /** Not free, as zeroing holds them, and free again once they are zeroed. */
  readonly heldClusters: bigint;
};

/** Of the disk's row. */
type RecordedSpace = {
  readonly clusterBytes: bigint | undefined;
  readonly totalClusters: bigint | undefined;
  readonly freeClusters: bigint | undefined;
  readonly spaceLevel: RecordedSpaceLevel;
};

type StoreSpace = Omit<DiskSpace, "level" | "heldClusters">;

/**
 * As observed in this incarnation of the target, else as recorded; undefined: no lvstore is known. What zeroing
 * holds comes back by itself, so it makes no disk low on space; but hosts cannot have it yet, so it can be full.
 */
export function diskSpace(
  row: RecordedSpace,
  observed: StoreSpace | undefined,
  thresholds: SpaceThresholds,
  heldClusters = 0n,
): DiskSpace | undefined {
  const clusterBytes = observed?.clusterBytes ?? row.clusterBytes;
  const totalClusters = observed?.totalClusters ?? row.totalClusters;
  const freeClusters = observed?.freeClusters ?? row.freeClusters;
  if (clusterBytes === undefined || totalClusters === undefined) return undefined;
  if (freeClusters === undefined) return undefined;
  const level =
    freeClusters === 0n
      ? "FULL"
      : levelOf(freeClusters + heldClusters, totalClusters, row, thresholds);
  return { level, clusterBytes, totalClusters, freeClusters, heldClusters };
}

/** The level to record; a full disk is recorded as CRITICAL, and as 0 free clusters. */
export function recordedLevel({ level }: Pick<DiskSpace, "level">): RecordedSpaceLevel {
  return level === "FULL" ? "CRITICAL" : level;
}

function levelOf(
  free: bigint,
  total: bigint,
  { spaceLevel: before }: Pick<RecordedSpace, "spaceLevel">,
  { lowPercent, criticalPercent, marginPercent }: SpaceThresholds,
): RecordedSpaceLevel {
  const isBelow = (percent: number, holds: boolean) => {
    // 0 switches a level off, whatever was recorded.
    if (percent === 0) return false;
    return free * 100n < total * BigInt(percent + (holds ? marginPercent : 0));
  };
  if (isBelow(criticalPercent, before === "CRITICAL")) return "CRITICAL";
  return isBelow(lowPercent, before !== "OK") ? "LOW" : "OK";
}

/**
 * Whether the recorded number of free clusters is to be replaced: hosts' writes change it all the time,
 * and are no reason for a commit each.
 */
export function isWorthRecording(
  recorded: bigint | undefined,
  { freeClusters, totalClusters }: Pick<DiskSpace, "freeClusters" | "totalClusters">,
  { recordPercent }: SpaceThresholds,
): boolean {
  if (recorded === freeClusters) return false;
  if (recorded === undefined || recorded === 0n || freeClusters === 0n) return true;
  const moved = recorded > freeClusters ? recorded - freeClusters : freeClusters - recorded;
  return moved * 100n >= totalClusters * BigInt(recordPercent);
}

/** For people: `1.5 GiB of 8 GiB (18 %) are free`. */
function spaceText(space: DiskSpace): string {
  const { clusterBytes, totalClusters, freeClusters, heldClusters } = space;
  const percent = totalClusters === 0n ? 0n : (freeClusters * 100n) / totalClusters;
  const free = formatBytes(freeClusters * clusterBytes);
  const held =
    heldClusters === 0n
      ? ""
      : `, and ${formatBytes(heldClusters * clusterBytes)} more once they are zeroed`;
  return `${free} of ${formatBytes(totalClusters * clusterBytes)} (${percent} %) are free${held}`;
}

const LEVEL_REASON = { LOW: "Low", CRITICAL: "Critical", FULL: "Full" } as const;

/** Reason and message of the condition SpaceLow; undefined while there is enough space. */
export function spaceLow(
  space: DiskSpace | undefined,
): { readonly reason: string; readonly message: string } | undefined {
  if (space === undefined || space.level === "OK") return undefined;
  const then =
    space.level === "FULL"
      ? "hosts' writes to thin volumes fail where they need a new cluster"
      : "once nothing is, hosts' writes to thin volumes fail where they need a new cluster";
  return { reason: LEVEL_REASON[space.level], message: `${spaceText(space)}; ${then}` };
}

/** The condition SpaceLow of a disk, while it holds. */
export function spaceConditions(space: DiskSpace | undefined): readonly Condition<"SpaceLow">[] {
  const low = spaceLow(space);
  return low === undefined ? [] : [{ type: "SpaceLow", status: "TRUE", ...low }];
}
