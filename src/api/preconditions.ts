// What calls need before they can be answered.
import { Refusal } from "../model/errors.ts";
import { refuseOrphans } from "../model/orphan.ts";
import type { Agent } from "./agent.ts";

/** Refuses reads before the rows are loaded from the database, which would answer NOT_FOUND. */
export function requireRows(agent: Agent): void {
  if (agent.rows.node !== undefined) return;
  throw new Refusal("DATABASE_DOWN", "the agent has not read its rows from the database yet", {
    retryAfterMs: 1_000,
  });
}

/**
 * Refuses an id whose name an orphan has. One that is not known yet is found when the lvol is made, and
 * the volume is FAILED then: a read before each volume would cost as much as the volume.
 */
export async function refuseKnownOrphan(agent: Agent, id: string): Promise<void> {
  if (agent.rows.lvol(id) !== undefined || agent.rows.snapshots.get(id) !== undefined) return;
  if (!agent.orphans.known().some(({ likelyOwner }) => likelyOwner === id)) return;
  refuseOrphans(id, await agent.orphans.ofVolume(id));
}
