// The lease in the node's row: one agent at a time writes the rows of a node. Each holder gets a
// new epoch, every write of rows requires it, and the database's clock decides when a lease has
// expired.
import { z } from "zod";
import type { Sql } from "./sql.ts";

export type Claimant = {
  readonly nodeId: string;
  /** Identifies this process among all agents. */
  readonly holder: string;
  /** Identity of the local lock that this process holds. */
  readonly lock: string;
  readonly termMs: number;
  /** The new epoch is higher than this one, too. */
  readonly atLeast: bigint;
};

export type NodeLease = {
  readonly epoch: bigint;
  readonly revision: bigint;
  readonly hold: string | undefined;
};

/** Another process has the lease. */
export type LeaseHeld = { readonly heldBy: string };

const row = z.object({
  lease_epoch: z.bigint(),
  revision: z.bigint(),
  hold: z.string().nullable(),
});

function toLease(value: unknown): NodeLease {
  const { lease_epoch: epoch, revision, hold } = row.parse(value);
  return { epoch, revision, hold: hold ?? undefined };
}

export async function readLease(client: Sql, nodeId: string): Promise<NodeLease> {
  const { rows } = await client.query(
    `select lease_epoch, revision, hold from node where node_id = $1`,
    [nodeId],
  );
  return toLease(rows[0]);
}

/**
 * Acquires the lease if it is free or expired, or if its holder had the local lock that this
 * process holds now: that holder is dead.
 */
export async function acquireLease(client: Sql, claim: Claimant): Promise<NodeLease | LeaseHeld> {
  const { nodeId, holder, lock, termMs, atLeast } = claim;
  const taken = await client.query(
    `update node set lease_epoch = greatest(lease_epoch, $5) + 1, lease_holder = $2,
       lease_lock = $3, lease_expire_time = now() + $4 * interval '1 millisecond'
     where node_id = $1
       and (lease_holder is null or lease_expire_time <= now() or lease_lock = $3)
     returning lease_epoch, revision, hold`,
    [nodeId, holder, lock, termMs, atLeast],
  );
  if (taken.rows.length > 0) return toLease(taken.rows[0]);
  const held = await client.query<{ lease_holder: string | null }>(
    `select lease_holder from node where node_id = $1`,
    [nodeId],
  );
  return { heldBy: held.rows[0]?.lease_holder ?? "another agent" };
}

/** Extends the lease; undefined if another process has acquired it. */
export async function renewLease(
  client: Sql,
  lease: { readonly nodeId: string; readonly epoch: bigint; readonly termMs: number },
): Promise<NodeLease | undefined> {
  const { nodeId, epoch, termMs } = lease;
  const { rows } = await client.query(
    `update node set lease_expire_time = now() + $3 * interval '1 millisecond'
     where node_id = $1 and lease_epoch = $2 returning lease_epoch, revision, hold`,
    [nodeId, epoch, termMs],
  );
  return rows.length === 0 ? undefined : toLease(rows[0]);
}

/** Gives up the lease, so that another agent can acquire it at once. */
export async function releaseLease(client: Sql, nodeId: string, epoch: bigint): Promise<void> {
  await client.query(
    `update node set lease_holder = null, lease_expire_time = null
     where node_id = $1 and lease_epoch = $2`,
    [nodeId, epoch],
  );
}

export async function setHold(client: Sql, nodeId: string, hold: string | null): Promise<void> {
  await client.query(`update node set hold = $2 where node_id = $1`, [nodeId, hold]);
}
