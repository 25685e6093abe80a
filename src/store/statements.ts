// The statements of the writer: set-based, one per purpose, a fixed number per transaction.
import { z } from "zod";
import type { DiskRow } from "../model/disk.ts";
import { Refusal } from "../model/errors.ts";
import type { LvolRow } from "../model/lvol.ts";
import { records } from "./columns.ts";
import { parseDiskRows } from "./disk-rows.ts";
import { parseLvolRows } from "./lvol-rows.ts";
import type { NodeRow } from "./rows.ts";
import type { Sql } from "./sql.ts";
import type { StatusBatch } from "./status-queue.ts";

/** The channel that outside readers may listen on; the payload is a hint, never data. */
const CHANNEL = "storage_node";

export type LockedNode = NodeRow & {
  readonly now: Date;
  /** Until there is a call for it, disks are cordoned in the database, by hand. */
  readonly cordonedDisks: ReadonlySet<string>;
};

const nodeSql = z.object({
  node_id: z.string(),
  cordoned: z.boolean(),
  revision: z.bigint(),
});

const lockedSql = nodeSql.extend({ now: z.date(), cordoned_disks: z.array(z.string()) });

function toNode(row: unknown): NodeRow {
  const { node_id: nodeId, cordoned, revision } = nodeSql.parse(row);
  return { nodeId, cordoned, revision };
}

/** A node whose identity in the database is not the configured one. */
export class NodeMismatch extends Error {
  constructor(message: string) {
    super(message);
    this.name = "NodeMismatch";
  }
}

/**
 * Makes the node's row on first contact. Throws NodeMismatch if the node has volumes under another
 * fleet or NQN prefix: their names could no longer be told from foreign ones.
 */
export async function registerNode(
  client: Sql,
  node: { readonly nodeId: string; readonly fleet: string; readonly nqnPrefix: string },
): Promise<void> {
  await client.query(
    `insert into node (node_id, fleet, nqn_prefix) values ($1, $2, $3)
     on conflict (node_id) do update set fleet = excluded.fleet, nqn_prefix = excluded.nqn_prefix
     where not exists (select from lvol where lvol.node_id = node.node_id)
       and not exists (select from disk where disk.node_id = node.node_id and disk.lvs_uuid is not null)`,
    [node.nodeId, node.fleet, node.nqnPrefix],
  );
  const { rows } = await client.query<{ fleet: string; nqn_prefix: string }>(
    `select fleet, nqn_prefix from node where node_id = $1`,
    [node.nodeId],
  );
  const known = rows[0];
  if (known === undefined) return;
  if (known.fleet !== node.fleet || known.nqn_prefix !== node.nqnPrefix) {
    throw new NodeMismatch(
      `node ${node.nodeId} has volumes of fleet "${known.fleet}" with NQN prefix ` +
        `"${known.nqn_prefix}"; configured are "${node.fleet}" and "${node.nqnPrefix}"`,
    );
  }
}

/** Everything of one node, as of one moment. */
export async function loadNode(
  client: Sql,
  nodeId: string,
): Promise<{ node: NodeRow; lvols: LvolRow[]; disks: DiskRow[] }> {
  const node = await client.query(
    `select node_id, cordoned, revision from node where node_id = $1 for share`,
    [nodeId],
  );
  const lvols = await client.query(`select * from lvol where node_id = $1`, [nodeId]);
  const disks = await client.query(`select * from disk where node_id = $1`, [nodeId]);
  return {
    node: toNode(node.rows[0]),
    lvols: parseLvolRows(lvols.rows),
    disks: parseDiskRows(disks.rows),
  };
}

/** Another agent has the lease: this process writes no rows any more. */
export class LeaseLost extends Error {
  constructor() {
    super("another agent has taken the lease of this node");
    this.name = "LeaseLost";
  }
}

/** Somebody else wrote rows of this node: those in memory are not those of the database. */
export class RowsBehind extends Error {
  constructor() {
    super("the rows in memory are not those of the database; they are read again");
    this.name = "RowsBehind";
  }
}

/**
 * Locks the node's row against other writers, raises its revision for this transaction and lets it be
 * known, once it has committed, to who listens. Throws LeaseLost if the epoch is not the newest.
 */
export async function raiseRevision(
  client: Sql,
  nodeId: string,
  epoch: bigint,
): Promise<LockedNode> {
  const { rows } = await client.query(
    `update node set revision = revision + 1 where node_id = $1 and lease_epoch = $2
     returning node_id, cordoned, revision, now() as now,
       array(select id::text from disk where disk.node_id = node.node_id and disk.cordoned)
         as cordoned_disks,
       pg_notify('${CHANNEL}', node_id || ':' || revision)`,
    [nodeId, epoch],
  );
  if (rows.length === 0) throw new LeaseLost();
  const { now, cordoned_disks: cordonedDisks } = lockedSql.parse(rows[0]);
  return { ...toNode(rows[0]), now, cordonedDisks: new Set(cordonedDisks) };
}

/** Rows of any node: ids are unique in the fleet. */
export async function readLvols(client: Sql, ids: readonly string[]): Promise<LvolRow[]> {
  if (ids.length === 0) return [];
  const { rows } = await client.query(`select * from lvol where id = any ($1::uuid[])`, [ids]);
  return parseLvolRows(rows);
}

/** Writes what admission decided: desired columns, and the disks' sums. */
export async function writeIntents(
  client: Sql,
  rows: { readonly lvols: readonly LvolRow[]; readonly disks: readonly DiskRow[] },
): Promise<void> {
  if (rows.lvols.length > 0) {
    const { rowCount } = await client.query(
      `insert into lvol select * from jsonb_populate_recordset(null::lvol, $1::jsonb)
       on conflict (id) do update set
         size_bytes = excluded.size_bytes, promised_bytes = excluded.promised_bytes,
         hosts = excluded.hosts, allow_any_host = excluded.allow_any_host, qos = excluded.qos,
         labels = excluded.labels, generation = excluded.generation,
         delete_requested_time = excluded.delete_requested_time,
         delete_forced = excluded.delete_forced, traceparent = excluded.traceparent,
         failed = excluded.failed, attempt = excluded.attempt,
         unconfirmed = excluded.unconfirmed, next_try_time = excluded.next_try_time, revision = excluded.revision,
         update_time = excluded.update_time
       where lvol.node_id = excluded.node_id`,
      [records(rows.lvols)],
    );
    // Between our read and our write another node's agent took one of the ids. Nothing is written;
    // the caller's next attempt sees that row and is refused for the right reason.
    if (rowCount !== rows.lvols.length) {
      throw new Refusal(
        "DATABASE_DOWN",
        "an id was taken by another node at this moment; try again",
        {
          retryAfterMs: 100,
        },
      );
    }
  }
  if (rows.disks.length > 0) {
    await client.query(
      `update disk set
         admitted = r.admitted, admitted_serial = r.admitted_serial,
         admitted_evidence = r.admitted_evidence, wanted = r.wanted,
         zero_requested_time = r.zero_requested_time, generation = r.generation, traceparent = r.traceparent, attempt = r.attempt,
         next_try_time = r.next_try_time, promised_bytes = r.promised_bytes,
         lvol_count = r.lvol_count, revision = r.revision, update_time = r.update_time
       from jsonb_populate_recordset(null::disk, $1::jsonb) r where disk.id = r.id`,
      [records(rows.disks)],
    );
  }
}

/**
 * Writes what loops saw, where the generation is still the one they saw it at. Returns the ids that
 * were applied and the rows as they are now.
 */
export async function writeStatus(
  client: Sql,
  batch: StatusBatch,
  revision: bigint,
): Promise<{ ids: Set<string>; lvols: LvolRow[]; disks: DiskRow[] }> {
  const ids = new Set<string>();
  const inserted = await insertDisks(client, batch.newDisks, revision);
  for (const row of inserted) ids.add(row.id);
  const lvols = await writeLvolStatus(client, batch, revision);
  const disks = await writeDiskStatus(client, batch.disks, revision);
  const applied = new Set(lvols.map((row) => row.id));
  const ended = await endPromises(client, batch.ended, { applied, revision });
  for (const row of [...lvols, ...disks]) ids.add(row.id);
  return { ids, lvols, disks: [...inserted, ...disks, ...ended] };
}

async function insertDisks(
  client: Sql,
  rows: readonly DiskRow[],
  revision: bigint,
): Promise<DiskRow[]> {
  if (rows.length === 0) return [];
  const result = await client.query(
    `insert into disk select * from jsonb_populate_recordset(null::disk, $1::jsonb)
     on conflict (id) do nothing returning *`,
    [records(rows.map((row) => ({ ...row, revision })))],
  );
  return parseDiskRows(result.rows);
}

async function writeLvolStatus(
  client: Sql,
  batch: StatusBatch,
  revision: bigint,
): Promise<LvolRow[]> {
  if (batch.lvols.length === 0) return [];
  const { rows } = await client.query<{ id: string; update_time: Date }>(
    `update lvol set
       observed_generation = r.observed_generation, lvol_uuid = r.lvol_uuid,
       lvs_uuid = r.lvs_uuid, observed_size_bytes = r.observed_size_bytes,
       exported = r.exported, pending_op = r.pending_op, last_error = r.last_error,
       failed = r.failed, attempt = r.attempt, next_try_time = r.next_try_time,
       delete_time = r.delete_time, revision = $2, update_time = now()
     from jsonb_populate_recordset(null::lvol, $1::jsonb) r
     where lvol.id = r.id and lvol.generation = r.generation
     returning lvol.id, lvol.update_time`,
    [records(batch.lvols), revision],
  );
  const times = new Map(rows.map((row) => [row.id, row.update_time]));
  return batch.lvols.flatMap((row) => {
    const updateTime = times.get(row.id);
    return updateTime === undefined ? [] : [{ ...row, revision, updateTime }];
  });
}

async function writeDiskStatus(
  client: Sql,
  disks: readonly DiskRow[],
  revision: bigint,
): Promise<DiskRow[]> {
  if (disks.length === 0) return [];
  const { rows } = await client.query(
    `update disk set
       observed_generation = r.observed_generation, state = r.state,
       state_reason = r.state_reason, transport = r.transport, address = r.address,
       kernel_name = r.kernel_name, driver = r.driver, original_driver = r.original_driver,
       controller_name = r.controller_name, lvs_name = r.lvs_name, lvs_uuid = r.lvs_uuid,
       free_space = r.free_space, pending_op = r.pending_op,
       zero_requested_time = r.zero_requested_time, cluster_bytes = r.cluster_bytes,
       total_clusters = r.total_clusters, free_clusters = r.free_clusters,
       size_bytes = r.size_bytes, block_size = r.block_size, evidence = r.evidence,
       evidence_fingerprint = r.evidence_fingerprint, last_error = r.last_error,
       attempt = r.attempt, next_try_time = r.next_try_time, last_seen_time = r.last_seen_time,
       revision = $2, update_time = now()
     from jsonb_populate_recordset(null::disk, $1::jsonb) r
     where disk.id = r.id and disk.generation = r.generation
     returning disk.*`,
    [records(disks), revision],
  );
  return parseDiskRows(rows);
}

/** A tombstone takes no space: its promise goes back to the disk in the same transaction. */
async function endPromises(
  client: Sql,
  ended: readonly LvolRow[],
  { applied, revision }: { readonly applied: ReadonlySet<string>; readonly revision: bigint },
): Promise<DiskRow[]> {
  const ids = ended.filter((row) => applied.has(row.id)).map((row) => row.id);
  if (ids.length === 0) return [];
  const { rows } = await client.query(
    `update disk set promised_bytes = disk.promised_bytes - gone.promised_bytes,
                     lvol_count = disk.lvol_count - gone.lvol_count, revision = $2
     from (select disk_id, sum(promised_bytes)::bigint as promised_bytes, count(*)::integer as lvol_count
           from lvol where id = any ($1::uuid[]) group by disk_id) gone
     where disk.id = gone.disk_id
     returning disk.*`,
    [ids, revision],
  );
  return parseDiskRows(rows);
}
