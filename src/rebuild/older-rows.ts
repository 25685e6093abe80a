// What becomes of the rows of a database that is older than what the node remembers, when its hold ends:
// facts that may have changed since are taken back to the side that harms nobody.
import type { Remembered } from "../local/local-memory.ts";
import { unlikeRemembered } from "../local/local-memory.ts";
import { earlierSnapshot } from "../model/pending-op.ts";
import { readLease } from "../store/lease.ts";
import { json } from "../store/columns.ts";
import { LISTED_HOSTS } from "../store/moved-disks.ts";
import type { Sql } from "../store/sql.ts";

export type OlderRows = {
  readonly unconfirmedHosts: number;
  readonly volumes: number;
  readonly neverSeen: number;
  readonly stores: number;
};

/** Whether the node is on hold, or would be: its database is empty or older than what it remembers. */
export async function isOlder(
  client: Sql,
  nodeId: string,
  remembered: Remembered | undefined,
): Promise<boolean> {
  const node = await client.query(`select from node where node_id = $1`, [nodeId]);
  const nothing = { hold: undefined, epoch: 0n, revision: 0n };
  const lease = node.rows.length === 0 ? nothing : await readLease(client, nodeId);
  return lease.hold !== undefined || unlikeRemembered(remembered, lease) !== undefined;
}

/**
 * Takes back what older rows may have wrong (docs/architecture.md#what-an-older-row-may-have-wrong): no
 * host is confirmed, no free space is known to be zeroed, an lvol or a snapshot that was never seen may have
 * been made, and what was requested, asserted or failed then does not act now. Each row gets a new generation.
 */
export async function distrustRows(
  client: Sql,
  nodeId: string,
  revision: bigint,
): Promise<OlderRows> {
  const lvols = await client.query<{ hosts: number; never_seen: boolean }>(
    `update lvol set
       unconfirmed_hosts = ${LISTED_HOSTS},
       maybe_made = lvol_uuid is null, connected_hosts = null, connected_incarnation = null,
       failed = false, failures = '{}', last_error = null, attempt = 0, next_try_time = null,
       generation = generation + 1, traceparent = null, actor = null,
       revision = $2, update_time = now()
     where node_id = $1 and delete_time is null
     returning cardinality(unconfirmed_hosts) as hosts, maybe_made as never_seen`,
    [nodeId, revision],
  );
  // A store whose making was recorded and not its uuid may have been made and used since: without the
  // name it is FOREIGN, and a rebuild that finds it adopts it with free space UNKNOWN.
  const disks = await client.query<{ with_store: boolean }>(
    `update disk set
       free_space = 'UNKNOWN', zero_requested_time = null, zeroing = null, discard_zeroes = false,
       wanted = 'take', admitted = admitted and wanted = 'take',
       adopted_store = case when lvs_uuid is not null then adopted_store end,
       wipe = null, wipe_ended = null,
       lvs_name = case when lvs_uuid is not null then lvs_name end,
       failures = '{}', last_error = null, attempt = 0, next_try_time = null,
       generation = generation + 1, traceparent = null, actor = null,
       revision = $2, update_time = now()
     where node_id = $1
     returning lvs_uuid is not null as with_store`,
    [nodeId, revision],
  );
  await client.query(
    `update snapshot set
       pending_op = case when lvol_uuid is null then $3::jsonb else pending_op end,
       failed = false, failures = '{}', last_error = null, attempt = 0, next_try_time = null,
       generation = generation + 1, traceparent = null, actor = null,
       revision = $2, update_time = now()
     where node_id = $1 and delete_time is null`,
    [nodeId, revision, json(earlierSnapshot(new Date()))],
  );
  return {
    unconfirmedHosts: lvols.rows.reduce((sum, { hosts }) => sum + hosts, 0),
    volumes: lvols.rows.length,
    neverSeen: lvols.rows.filter(({ never_seen: neverSeen }) => neverSeen).length,
    stores: disks.rows.filter(({ with_store: withStore }) => withStore).length,
  };
}
