// The free clusters of a disk: how many there are, and whether they may hold old bytes, by what its
// volumes' rows say.
import type { DiskRow } from "../../model/disk.ts";
import { leavesDirt } from "../../model/pending-op.ts";
import { diskSpace, type DiskSpace, type SpaceThresholds } from "../../model/space.ts";
import type { Rows } from "../../store/rows.ts";
import type { ObservedDisk } from "../target/observed.ts";

/** As observed while the disk's own lvstore is loaded, else as recorded. */
export function spaceOnTarget(
  row: DiskRow,
  onTarget: ObservedDisk | undefined,
  thresholds: SpaceThresholds,
): DiskSpace | undefined {
  const store = onTarget?.store;
  return diskSpace(row, store?.uuid === row.lvsUuid ? store : undefined, thresholds);
}

/**
 * Whether a delete on this disk may have left its clusters uncleared
 * (docs/architecture.md#r7-tenants-and-free-space).
 */
export function mayBeDirty(rows: Rows, diskId: string, incarnation: string | undefined): boolean {
  for (const id of rows.pendingIdsOn(diskId)) {
    const row = rows.lvol(id) ?? rows.snapshots.get(id);
    if (row !== undefined && leavesDirt(row, incarnation)) return true;
  }
  return false;
}
