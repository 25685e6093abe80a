// Writes the rows of a rebuild in one transaction and ends the hold: what the agent reads next is the
// database that this node knows from now on.
import type { Sql } from "../store/sql.ts";
import type { Remembered } from "../local/local-memory.ts";
import type { DiskRow } from "../model/disk.ts";
import type { LvolRow } from "../model/lvol.ts";
import { records } from "../store/columns.ts";
import type { RebuildPlan } from "./plan.ts";

/** Somebody works with the rows: they may only be added to on hold, or while no agent leads. */
class NodeIsLed extends Error {
  constructor(holder: string) {
    super(`${holder} leads this node and is not on hold; stop it first`);
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

/** Ids that other nodes have are left as they are; answers how many rows were written. */
export async function applyRebuild(
  client: Sql,
  nodeId: string,
  { plan, remembered }: { readonly plan: RebuildPlan; readonly remembered: Remembered | undefined },
): Promise<{ readonly disks: number; readonly lvols: number }> {
  const { rows } = await client.query<{ revision: bigint }>(
    `update node set hold = null, revision = greatest(revision, $2) + 1,
       lease_epoch = greatest(lease_epoch, $3)
     where node_id = $1 returning revision`,
    [nodeId, remembered?.revision ?? 0n, remembered?.epoch ?? 0n],
  );
  const revision = rows[0]?.revision ?? 0n;
  const written = (list: readonly (DiskRow | LvolRow)[]) =>
    records(list.map((row) => ({ ...row, revision })));
  // A disk that was met on the way, or whose row is older than its store, gets the store.
  const disks = await client.query(
    `insert into disk select * from jsonb_populate_recordset(null::disk, $1::jsonb)
     on conflict (id) do update set
       admitted = true, admitted_serial = excluded.serial, wanted = 'take',
       generation = disk.generation + 1, lvs_name = excluded.lvs_name, lvs_uuid = excluded.lvs_uuid,
       cluster_bytes = excluded.cluster_bytes, total_clusters = excluded.total_clusters,
       free_clusters = excluded.free_clusters, free_space = excluded.free_space,
       original_driver = coalesce(disk.original_driver, excluded.original_driver),
       update_time = now()
     where disk.node_id = excluded.node_id and disk.lvs_uuid is null`,
    [written(plan.disks)],
  );
  const lvols = await client.query(
    `insert into lvol select * from jsonb_populate_recordset(null::lvol, $1::jsonb)
     on conflict (id) do nothing`,
    [written(plan.lvols)],
  );
  await client.query(
    `update disk set promised_bytes = coalesce(sums.bytes, 0), lvol_count = coalesce(sums.count, 0),
       revision = $2
     from disk d left join (
       select disk_id, sum(promised_bytes)::bigint as bytes, count(*)::integer as count
       from lvol where delete_time is null group by disk_id
     ) sums on sums.disk_id = d.id
     where d.id = disk.id and disk.node_id = $1`,
    [nodeId, revision],
  );
  return { disks: disks.rowCount ?? 0, lvols: lvols.rowCount ?? 0 };
}
