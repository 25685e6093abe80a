// The free clusters of a disk: how many there are, and whether they may hold old bytes, by what its
// volumes' rows and their exports say.
import type { Config } from "../../config.ts";
import { subsystemFrees, type DiscardGuard } from "../../model/discards.ts";
import type { DiskRow } from "../../model/disk.ts";
import { mayHaveCutCopy } from "../../model/pending-op.ts";
import type { ObservedVolume } from "../../model/lvol.ts";
import { diskSpace, type DiskSpace, type SpaceThresholds } from "../../model/space.ts";
import { zeroesByItself } from "../../model/zeroing.ts";
import type { Rows } from "../../store/rows.ts";
import type { Slices } from "./slices.ts";
import type { ObservedDisk } from "../target/observed-disk.ts";
import type { Observed } from "../target/observed.ts";

/** As observed while the disk's own lvstore is loaded, else as recorded. heldBytes: by zeroing. */
export function spaceOnTarget(
  row: DiskRow,
  onTarget: ObservedDisk | undefined,
  thresholds: SpaceThresholds,
  heldBytes = 0n,
): DiskSpace | undefined {
  const store = onTarget?.store?.uuid === row.lvsUuid ? onTarget?.store : undefined;
  const clusterBytes = store?.clusterBytes ?? row.clusterBytes;
  const held = clusterBytes === undefined ? 0n : heldBytes / clusterBytes;
  return diskSpace(row, store, thresholds, held);
}

/** The disk of a volume whose subsystem lets hosts return clusters to it; undefined: it does not. */
export function freeingDisk(
  { rows, guard }: { readonly rows: Rows; readonly guard: DiscardGuard | undefined },
  id: string,
  { subsystem, lvol }: ObservedVolume,
): string | undefined {
  const row = rows.lvol(id);
  const disk = row && rows.disk(row.diskId);
  if (row === undefined || disk === undefined || subsystem?.kind !== "present") return undefined;
  // A snapshot makes a thick volume thin.
  const thin = row.thin || row.parentId !== undefined || (lvol?.kind === "present" && lvol.thin);
  if (!thin || row.deleteTime !== undefined) return undefined;
  return subsystemFrees(guard, subsystem.dmrsl, disk) ? disk.id : undefined;
}

/** Whether hosts may return clusters to the store, by discards, with what stands in them. */
export function hostsMayFree(rows: Rows, observed: Observed, diskId: string): boolean {
  return observed.discardsFree(diskId) && rows.disk(diskId)?.discardZeroes !== true;
}

/**
 * Whether a delete on this disk may have left its clusters uncleared, the copy of a cluster may have been cut
 * off, or a host may return some
 * (docs/architecture.md#r7-tenants-and-free-space).
 */
export function mayBeDirty(rows: Rows, observed: Observed, diskId: string): boolean {
  const { incarnation } = observed;
  if (hostsMayFree(rows, observed, diskId)) return true;
  if (mayHaveCutCopy(rows.disk(diskId), incarnation)) return true;
  return rows.mayLeaveDirt(diskId, incarnation);
}

function mayHold(since: Date, holdMs: number): boolean {
  return Date.now() < since.getTime() + holdMs;
}

/** The part of a disk's view that is about its free clusters. */
export function freeSpaceFacts(
  {
    config,
    rows,
    observed,
    slices,
  }: {
    readonly config: Pick<Config, "isolation" | "zeroing" | "zeroingHoldMs">;
    readonly rows: Rows;
    readonly observed: Observed;
    readonly slices: Slices;
  },
  diskId: string,
) {
  return {
    slices: slices.of(diskId),
    zeroesByItself: zeroesByItself(config),
    // While exports may be held back for it, zeroing does not rest.
    zeroingRests: mayHold(observed.storeSince(diskId), config.zeroingHoldMs)
      ? undefined
      : slices.rests(diskId),
    hostsMayFree: hostsMayFree(rows, observed, diskId),
    mayBeDirty: mayBeDirty(rows, observed, diskId),
  };
}
