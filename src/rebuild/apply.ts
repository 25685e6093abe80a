// Writes the rows of a rebuild and ends the hold, within the caller's transaction. It raises
// revision and lease epoch to those that the node remembers, so that the database is no longer
// behind them, and takes back what the rows of an older database may have wrong.
import type { Sql } from "../store/sql.ts";
import type { Remembered } from "../local/local-memory.ts";
import { records } from "../store/columns.ts";
import { distrustRows, isOlder, type OlderRows } from "./older-rows.ts";
import type { RebuildPlan } from "./plan.ts";

/** An agent works with the rows: a rebuild may add to them only on hold or while no agent leads. */
class NodeIsLed extends Error {
  constructor(holder: string) {
    super(`agent ${holder} leads this node and the node is not on hold; stop the agent first`);
    this.name = "NodeIsLed";
  }
}

export async function refuseIfLed(client: Sql, nodeId: string): Promise<void> {
  const { rows } = await client.query<{ lease_holder: string | null }>(
    `select lease_holder from node where node_id = $1 and hold is null
       and lease_holder is not null and lease_expire_time > now()`,
    [nodeId],
  );
  const holder = rows[0]?.lease_holder;
  if (holder !== undefined && holder !== null) throw new NodeIsLed(holder);
}

export type Written = {
  readonly disks: number;
  readonly lvols: number;
  readonly snapshots: number;
  readonly confirmed: number;
  /** Undefined: the database was not older than what the node remembers. */
  readonly older: OlderRows | undefined;
};

/** Returns how many rows were written. Rows whose ids belong to other nodes are not changed. */
export async function applyRebuild(
  client: Sql,
  nodeId: string,
  {
    plan,
    remembered,
    keepListed,
  }: {
    readonly plan: RebuildPlan;
    readonly remembered: Remembered | undefined;
    /** Confirm the hosts that the live target lists. */
    readonly keepListed: boolean;
  },
): Promise<Written> {
  const wasOlder = await isOlder(client, nodeId, remembered);
  const { rows } = await client.query<{ revision: bigint }>(
    `update node set hold = null, revision = greatest(revision, $2) + 1,
       lease_epoch = greatest(lease_epoch, $3),
       older_until = case when $4 then now() else older_until end
     where node_id = $1 returning revision`,
    [nodeId, remembered?.revision ?? 0n, remembered?.epoch ?? 0n, wasOlder],
  );
  const revision = rows[0]?.revision ?? 0n;
  const older = wasOlder ? await distrustRows(client, nodeId, revision) : undefined;
  await takeLargerSizes(client, plan.grown);
  const confirmed = keepListed ? await confirmListed(client, plan.hosts, revision) : 0;
  const disks = await insertDisks(client, plan.disks, revision);
  await takeIds(client, nodeId, plan);
  const lvols = await insertObjects(client, "lvol", withRevision(plan.lvols, revision));
  const snapshots = await insertObjects(client, "snapshot", withRevision(plan.snapshots, revision));
  await sumPromises(client, nodeId, revision);
  return { disks, lvols, snapshots, confirmed, older };
}

function withRevision(rows: readonly object[], revision: bigint): readonly object[] {
  return rows.map((row) => ({ ...row, revision }));
}

/**
 * An existing row without an lvstore gets the one that was found: the disk was discovered in the
 * meantime, or the database was restored to a time before the lvstore was created.
 */
async function insertDisks(
  client: Sql,
  disks: RebuildPlan["disks"],
  revision: bigint,
): Promise<number> {
  const { rowCount } = await client.query(
    `insert into disk select * from jsonb_populate_recordset(null::disk, $1::jsonb)
     on conflict (id) do update set
       admitted = true, admitted_serial = excluded.serial, wanted = 'take', wipe = null,
       generation = disk.generation + 1, lvs_name = excluded.lvs_name, lvs_uuid = excluded.lvs_uuid,
       cluster_bytes = excluded.cluster_bytes, total_clusters = excluded.total_clusters,
       free_clusters = excluded.free_clusters, free_space = excluded.free_space,
       update_time = now()
     where disk.node_id = excluded.node_id and disk.lvs_uuid is null`,
    [records(withRevision(disks, revision))],
  );
  return rowCount ?? 0;
}

/** Ids that belong to other nodes are left to them. */
async function takeIds(
  client: Sql,
  nodeId: string,
  { lvols, snapshots }: RebuildPlan,
): Promise<void> {
  await client.query(
    `insert into object_id (id, node, kind)
     select id, node.number, kind::"char"
     from unnest($1::uuid[], $3::text[]) found (id, kind), node
     where node.node_id = $2 order by id on conflict (id) do nothing`,
    [
      [...lvols, ...snapshots].map(({ id }) => id),
      nodeId,
      [...lvols.map(() => "l"), ...snapshots.map(() => "s")],
    ],
  );
}

async function insertObjects(
  client: Sql,
  table: "lvol" | "snapshot",
  rows: readonly object[],
): Promise<number> {
  const { rowCount } = await client.query(
    `insert into ${table} select r.* from jsonb_populate_recordset(null::${table}, $1::jsonb) r
       join object_id using (id) join node on node.number = object_id.node
     where node.node_id = r.node_id
     on conflict (id) do nothing`,
    [records(rows)],
  );
  return rowCount ?? 0;
}

async function sumPromises(client: Sql, nodeId: string, revision: bigint): Promise<void> {
  await client.query(
    `update disk set promised_bytes = coalesce(sums.bytes, 0), lvol_count = coalesce(sums.lvols, 0),
       snapshot_count = coalesce(sums.snapshots, 0), revision = $2
     from disk d left join (
       select disk_id, sum(promised_bytes)::bigint as bytes,
         sum(lvols)::integer as lvols, sum(snapshots)::integer as snapshots
       from (select disk_id, promised_bytes, 1 as lvols, 0 as snapshots
             from lvol where delete_time is null
             union all select disk_id, promised_bytes, 0, 1
             from snapshot where delete_time is null) object
       group by disk_id
     ) sums on sums.disk_id = d.id
     where d.id = disk.id and disk.node_id = $1`,
    [nodeId, revision],
  );
}

async function takeLargerSizes(client: Sql, grown: RebuildPlan["grown"]): Promise<void> {
  await client.query(
    `update lvol set size_bytes = r.size_bytes, promised_bytes = r.size_bytes
     from jsonb_to_recordset($1::jsonb) as r (id uuid, size_bytes bigint)
     where lvol.id = r.id and lvol.promised_bytes < r.size_bytes`,
    [records(grown)],
  );
}

/** Returns how many hosts were unconfirmed and are confirmed now. */
async function confirmListed(
  client: Sql,
  compared: RebuildPlan["hosts"],
  revision: bigint,
): Promise<number> {
  const pairs = compared.flatMap(({ lvolId: id, listed }) => listed.map((host) => ({ id, host })));
  const { rows } = await client.query<{ confirmed: number }>(
    `update lvol set
       unconfirmed_hosts = array(select host from unnest(unconfirmed_hosts) host
                                 where host <> all (r.hosts)),
       generation = generation + 1, revision = $2, update_time = now()
     from (select id, array_agg(host) as hosts
           from jsonb_to_recordset($1::jsonb) as pair (id uuid, host text) group by id) r
     where lvol.id = r.id and lvol.unconfirmed_hosts && r.hosts
     returning cardinality(r.hosts) as confirmed`,
    [records(pairs), revision],
  );
  return rows.reduce((sum, { confirmed }) => sum + confirmed, 0);
}
