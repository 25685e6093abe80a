// SQL statements of the writer: set-based, one per purpose, a fixed number per transaction.
import { z } from "zod";
import type { ColumnOwner } from "../model/column-owner.ts";
import type { ControllerRow } from "../model/controller.ts";
import { DISK_COLUMNS, type DiskRow } from "../model/disk.ts";
import { LVOL_COLUMNS, type LvolRow } from "../model/lvol.ts";
import { SNAPSHOT_COLUMNS, type SnapshotRow } from "../model/snapshot.ts";
import type { TargetProcess } from "../model/target-process.ts";
import { assignments, fieldsOf, json, optional, records, targetProcessColumn } from "./columns.ts";
import { parseControllerRows } from "./controller-rows.ts";
import * as controllerSql from "./controller-statements.ts";
import { parseDiskRows } from "./disk-rows.ts";
import { takeMoved } from "./moved-disks.ts";
import { parseLvolRows } from "./lvol-rows.ts";
import type { NodeRow } from "./rows.ts";
import { parseSnapshotRows } from "./snapshot-rows.ts";
import type { Sql } from "./sql.ts";
import type { StatusBatch } from "./status-queue.ts";
import { restoreRows } from "./tombstones.ts";

/** NOTIFY channel for readers outside of the agent. The payload is a hint to read, never data. */
const CHANNEL = "storage_node";

/** An upsert writes whole rows: the columns of the loops are those of a new row only. */
function intents(columns: Readonly<Record<string, ColumnOwner>>, from: string): string {
  return assignments(fieldsOf(columns, ["intent", "both"]), from);
}

const LVOL_INTENT = intents(LVOL_COLUMNS, "excluded");
const SNAPSHOT_INTENT = intents(SNAPSHOT_COLUMNS, "excluded");
const DISK_INTENT = intents(DISK_COLUMNS, "r");

/** What loops write: the SET list, and the fields that the statement needs. */
function statusOf(columns: Readonly<Record<string, ColumnOwner>>): {
  readonly assigned: string;
  readonly fields: ReadonlySet<string>;
} {
  const written = fieldsOf(columns, ["status", "both"]);
  return {
    assigned: assignments(written, "r"),
    fields: new Set(["id", "generation", ...written]),
  };
}

const LVOL_STATUS = { table: "lvol", ...statusOf(LVOL_COLUMNS) };
const SNAPSHOT_STATUS = { table: "snapshot", ...statusOf(SNAPSHOT_COLUMNS) };
const DISK_STATUS = statusOf(DISK_COLUMNS);

export type LockedNode = NodeRow & { readonly now: Date };

const nodeSql = z.object({
  node_id: z.string(),
  cordoned: z.boolean(),
  revision: z.bigint(),
  target_process: optional(targetProcessColumn),
});

const lockedSql = nodeSql.extend({ now: z.date() });

function toNode(row: unknown): NodeRow {
  const parsed = nodeSql.parse(row);
  const { node_id: nodeId, cordoned, revision, target_process: targetProcess } = parsed;
  return { nodeId, cordoned, revision, targetProcess };
}

/** A node whose identity in the database is not the configured one. */
export class NodeMismatch extends Error {
  constructor(message: string) {
    super(message);
    this.name = "NodeMismatch";
  }
}

/**
 * Inserts the node's row if there is none. Throws NodeMismatch if the node has volumes or lvstores
 * of another fleet or NQN prefix: the agent would take their names for foreign ones.
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

type RowsOfNode = {
  lvols: LvolRow[];
  snapshots: SnapshotRow[];
  disks: DiskRow[];
  controllers: ControllerRow[];
};

/** All rows of one node, as of one moment: its node row is locked against writers. */
export async function loadNode(
  client: Sql,
  nodeId: string,
): Promise<{ node: NodeRow } & RowsOfNode> {
  const node = await client.query(
    `select node_id, cordoned, revision, target_process from node where node_id = $1 for share`,
    [nodeId],
  );
  const lvols = await client.query(`select * from lvol where node_id = $1 order by delete_time`, [
    nodeId,
  ]);
  const snapshots = await client.query(
    `select * from snapshot where node_id = $1 order by delete_time`,
    [nodeId],
  );
  const disks = await client.query(`select * from disk where node_id = $1`, [nodeId]);
  const controllers = await client.query(`select * from controller where node_id = $1`, [nodeId]);
  return {
    controllers: parseControllerRows(controllers.rows),
    snapshots: parseSnapshotRows(snapshots.rows),
    node: toNode(node.rows[0]),
    lvols: parseLvolRows(lvols.rows),
    disks: parseDiskRows(disks.rows),
  };
}

/** This process must not write rows any more: another agent has acquired the lease. */
export class LeaseLost extends Error {
  constructor() {
    super("another agent has taken the lease of this node");
    this.name = "LeaseLost";
  }
}

/** Another process has written rows of this node: the rows in memory are not current. */
export class RowsBehind extends Error {
  constructor() {
    super("the rows in memory differ from those of the database; they are read again");
    this.name = "RowsBehind";
  }
}

/**
 * Locks the node's row against other writers, increments its revision and notifies the channel when
 * the transaction commits. Throws LeaseLost if the epoch is not the node's present lease epoch.
 */
export async function raiseRevision(
  client: Sql,
  nodeId: string,
  epoch: bigint,
): Promise<LockedNode> {
  const { rows } = await client.query(
    `update node set revision = revision + 1 where node_id = $1 and lease_epoch = $2
     returning node_id, cordoned, revision, target_process, now() as now,
       pg_notify('${CHANNEL}', node_id || ':' || revision)`,
    [nodeId, epoch],
  );
  if (rows.length === 0) throw new LeaseLost();
  const { now } = lockedSql.parse(rows[0]);
  return { ...toNode(rows[0]), now };
}

/** Writes the rows that admission has changed: desired state, and the sums of the disks. */
export async function writeIntents(
  client: Sql,
  rows: {
    readonly lvols: readonly LvolRow[];
    readonly snapshots: readonly SnapshotRow[];
    readonly disks: readonly DiskRow[];
    readonly controllers: readonly ControllerRow[];
  },
): Promise<void> {
  if (rows.lvols.length > 0) {
    await client.query(
      `insert into lvol select * from jsonb_populate_recordset(null::lvol, $1::jsonb)
       on conflict (id) do update set ${LVOL_INTENT},
         revision = excluded.revision, update_time = excluded.update_time`,
      [records(rows.lvols)],
    );
  }
  if (rows.snapshots.length > 0) {
    await client.query(
      `insert into snapshot select * from jsonb_populate_recordset(null::snapshot, $1::jsonb)
       on conflict (id) do update set ${SNAPSHOT_INTENT},
         revision = excluded.revision, update_time = excluded.update_time`,
      [records(rows.snapshots)],
    );
  }
  if (rows.disks.length > 0) {
    await client.query(
      `update disk set ${DISK_INTENT},
         revision = r.revision, update_time = r.update_time
       from jsonb_populate_recordset(null::disk, $1::jsonb) r where disk.id = r.id`,
      [records(rows.disks)],
    );
  }
  await controllerSql.writeControllerIntents(client, rows.controllers);
}

/** Whether the node takes new volumes. */
export async function writeCordon(client: Sql, nodeId: string, cordoned: boolean): Promise<void> {
  await client.query(`update node set cordoned = $2 where node_id = $1`, [nodeId, cordoned]);
}

/** Records which process of the target the node's rows are written for from now on. */
export async function writeTargetProcess(
  client: Sql,
  nodeId: string,
  targetProcess: TargetProcess,
): Promise<void> {
  await client.query(`update node set target_process = $2::jsonb where node_id = $1`, [
    nodeId,
    json(targetProcess),
  ]);
}

/**
 * Writes the status that loops record, where the row's generation is still that of the record.
 * Returns the ids that were written and the new rows.
 */
export async function writeStatus(
  client: Sql,
  batch: StatusBatch,
  revision: bigint,
): Promise<{ ids: Set<string> } & RowsOfNode> {
  const ids = new Set<string>();
  const inserted = await insertDisks(client, batch.newDisks, revision);
  for (const row of inserted) ids.add(row.id);
  const known = batch.newDisks.filter(({ id }) => !ids.has(id));
  const moved = await takeMoved(client, known, revision);
  for (const row of moved.disks) ids.add(row.id);
  const restored = await restoreRows(client, batch.restored, revision);
  const lvols = await writeObjectStatus(client, LVOL_STATUS, { rows: batch.lvols, revision });
  const snapshots = await writeObjectStatus(client, SNAPSHOT_STATUS, {
    rows: batch.snapshots,
    revision,
  });
  const disks = await writeDiskStatus(client, batch.disks, revision);
  const found = await controllerSql.insertControllers(client, batch.newControllers, revision);
  const controllers = [
    ...found,
    ...(await controllerSql.writeControllers(client, batch.controllers, revision)),
  ];
  for (const row of controllers) ids.add(row.id);
  const applied = new Set([...lvols, ...snapshots].map((row) => row.id));
  const ended = await releasePromises(client, batch.ended, { applied, revision });
  for (const row of [...restored, ...lvols, ...snapshots, ...disks]) ids.add(row.id);
  return {
    ids,
    lvols: [...moved.lvols, ...restored, ...lvols],
    snapshots: [...moved.snapshots, ...snapshots],
    disks: [...inserted, ...moved.disks, ...disks, ...ended],
    controllers,
  };
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

/** Of volumes or snapshots. */
async function writeObjectStatus<Row extends LvolRow | SnapshotRow>(
  client: Sql,
  { table, assigned, fields }: typeof LVOL_STATUS,
  { rows, revision }: { readonly rows: readonly Row[]; readonly revision: bigint },
): Promise<Row[]> {
  if (rows.length === 0) return [];
  const written = await client.query<{ id: string; update_time: Date }>(
    `update ${table} set ${assigned}, revision = $2, update_time = now()
     from jsonb_populate_recordset(null::${table}, $1::jsonb) r
     where ${table}.id = r.id and ${table}.generation = r.generation
     returning ${table}.id, ${table}.update_time`,
    [records(rows, fields), revision],
  );
  const times = new Map(written.rows.map((row) => [row.id, row.update_time]));
  return rows.flatMap((row) => {
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
    `update disk set ${DISK_STATUS.assigned}, revision = $2, update_time = now()
     from jsonb_populate_recordset(null::disk, $1::jsonb) r
     where disk.id = r.id and disk.generation = r.generation
     returning disk.*`,
    [records(disks, DISK_STATUS.fields), revision],
  );
  return parseDiskRows(rows);
}

/** Subtracts new tombstones from the sums of their disks, in the same transaction. */
async function releasePromises(
  client: Sql,
  ended: readonly (LvolRow | SnapshotRow)[],
  { applied, revision }: { readonly applied: ReadonlySet<string>; readonly revision: bigint },
): Promise<DiskRow[]> {
  const ids = ended.filter((row) => applied.has(row.id)).map((row) => row.id);
  if (ids.length === 0) return [];
  const { rows } = await client.query(
    `update disk set promised_bytes = disk.promised_bytes - gone.promised_bytes,
                     lvol_count = disk.lvol_count - gone.lvols,
                     snapshot_count = disk.snapshot_count - gone.snapshots, revision = $2
     from (select disk_id, sum(promised_bytes)::bigint as promised_bytes,
                  sum(lvols)::integer as lvols, sum(snapshots)::integer as snapshots
           from (select id, disk_id, promised_bytes, 1 as lvols, 0 as snapshots from lvol
                 union all select id, disk_id, promised_bytes, 0, 1 from snapshot) object
           where id = any ($1::uuid[]) group by disk_id) gone
     where disk.id = gone.disk_id
     returning disk.*`,
    [ids, revision],
  );
  return parseDiskRows(rows);
}
