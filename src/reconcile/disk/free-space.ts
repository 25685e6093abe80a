// Whether the free clusters of a disk may hold old bytes, by what its volumes' rows say.
import { leavesDirt } from "../../model/pending-op.ts";
import type { Rows } from "../../store/rows.ts";

/**
 * Whether a delete on this disk may have left its clusters uncleared
 * (docs/architecture.md#r7-tenants-and-free-space).
 */
export function mayBeDirty(rows: Rows, diskId: string, incarnation: string | undefined): boolean {
  for (const id of rows.pendingIdsOn(diskId)) {
    const row = rows.lvol(id) ?? rows.snapshots.get(id);
    if (leavesDirt(row?.pendingOp, incarnation)) return true;
  }
  return false;
}
