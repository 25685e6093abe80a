// What calls need before they can be answered.
import { Refusal } from "../model/errors.ts";
import { lvolState } from "../model/lvol-state.ts";
import { refuseOrphans } from "../model/orphan.ts";
import { snapshotState } from "../model/snapshot.ts";
import type { Agent } from "./agent.ts";

/** Refuses reads before the rows are loaded from the database, which would answer NOT_FOUND. */
export function requireRows(agent: Agent): void {
  if (agent.rows.node !== undefined) return;
  throw new Refusal("DATABASE_DOWN", "the agent has not read its rows from the database yet", {
    retryAfterMs: 1_000,
  });
}

/**
 * Refuses an id whose name an orphan has. One that is known or found only when the lvol or the snapshot is made
 * ends that as FAILED: a read of every store before each volume would cost as much as the volume.
 */
export async function refuseKnownOrphan(agent: Agent, id: string): Promise<void> {
  if (agent.rows.lvol(id) !== undefined || agent.rows.snapshots.get(id) !== undefined) return;
  if (!agent.orphans.known().some(({ likelyOwner }) => likelyOwner === id)) return;
  refuseOrphans(id, await agent.orphans.ofVolume(id));
}

/** Refuses a new snapshot of a volume that has no data, or not any more. A repeat is no new one. */
export function refuseVolumeWithoutData(
  { rows, view }: Agent,
  { id, sourceLvolId }: { readonly id: string; readonly sourceLvolId: string },
): void {
  if (rows.snapshots.get(id) !== undefined) return;
  const row = rows.lvol(sourceLvolId);
  const state = row && lvolState(view(row));
  if (state !== "DATA_MISSING" && state !== "FAILED") return;
  throw hasNoData(sourceLvolId, `volume ${sourceLvolId} is ${state}: GetLvol says why`, state);
}

/** As refuseVolumeWithoutData, for a new clone and its snapshot. */
export function refuseSnapshotWithoutData(
  { rows, snapshotView }: Agent,
  { id, sourceSnapshotId }: { readonly id: string; readonly sourceSnapshotId: string | undefined },
): void {
  if (sourceSnapshotId === undefined || rows.lvol(id) !== undefined) return;
  const row = rows.snapshots.get(sourceSnapshotId);
  const state = row && snapshotState(snapshotView(row));
  if (state !== "DATA_MISSING" && state !== "FAILED") return;
  const message = `snapshot ${sourceSnapshotId} is ${state}: GetSnapshot says why`;
  throw hasNoData(sourceSnapshotId, message, state);
}

function hasNoData(id: string, message: string, state: string): Refusal {
  const preconditions = [{ subject: id, description: `state ${state}` }];
  return new Refusal("SOURCE_NOT_UP", message, { preconditions });
}
