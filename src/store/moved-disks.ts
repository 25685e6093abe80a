// Drives that were moved here from another node of the fleet: a disk that its former node has released
// becomes this node's with all rows of what lies on it, in the transaction that would have inserted its row.
import type { DiskRow } from "../model/disk.ts";
import type { LvolRow } from "../model/lvol.ts";
import { earlierSnapshot } from "../model/pending-op.ts";
import type { SnapshotRow } from "../model/snapshot.ts";
import { json, records } from "./columns.ts";
import { parseDiskRows } from "./disk-rows.ts";
import { parseLvolRows } from "./lvol-rows.ts";
import { parseSnapshotRows } from "./snapshot-rows.ts";
import type { Sql } from "./sql.ts";

export type Moved = {
  readonly disks: readonly DiskRow[];
  readonly lvols: readonly LvolRow[];
  readonly snapshots: readonly SnapshotRow[];
};

const NOTHING: Moved = { disks: [], lvols: [], snapshots: [] };

/** All that a row lets in, as its column of unconfirmed hosts has it. */
export const LISTED_HOSTS = `hosts || case when allow_any_host then array['*'] else '{}' end`;

/**
 * Whether a row of a table may be outdated: the database was restored, and it was not changed since. The
 * former node need not have noticed that yet.
 */
const mayBeOutdated = (table: "disk" | "lvol" | "snapshot") => `exists (
  select from node where node.node_id in ($1, ${table}.node_id)
    and node.older_until >= ${table}.update_time)`;

/** A drive that shows another identifier than the row has is a twin, and not the one that was released. */
const SAME = `coalesce(disk.nguid = r.nguid, true) and coalesce(disk.eui64 = r.eui64, true)`;

/** What another process may have done to it meanwhile is not known. */
const OF_DISK = `
  transport = r.transport, address = r.address, kernel_name = r.kernel_name, driver = r.driver,
  controller_name = null, size_bytes = r.size_bytes, block_size = r.block_size,
  wanted = 'take', admitted = false, admitted_serial = null, admitted_evidence = null,
  admission_ended = null, wipe = null, wipe_ended = null, cordoned = false,
  state = 'DISCOVERED', state_reason = 'not admitted',
  lvs_name = case when disk.lvs_uuid is not null then disk.lvs_name end,
  discard_zeroes = disk.discard_zeroes and not ${mayBeOutdated("disk")},
  free_space = 'UNKNOWN', zeroing = null, zero_requested_time = null, copying_run = null,
  pending_op = null, evidence = '[]', evidence_fingerprint = r.evidence_fingerprint,
  failures = '{}', last_error = null, attempt = 0, next_try_time = null`;

const OF_OBJECT = `
  generation = generation + 1, failures = '{}', attempt = 0, next_try_time = null`;

/** What an older row may have wrong is taken back as at the end of a hold (rebuild/older-rows.ts). */
const OF_LVOL = `
  ${OF_OBJECT}, last_error = null, pending_op = null, connected_hosts = null, connected_incarnation = null,
  unconfirmed_hosts = case when ${mayBeOutdated("lvol")} then ${LISTED_HOSTS} else unconfirmed_hosts end,
  maybe_made = maybe_made or (lvol_uuid is null and ${mayBeOutdated("lvol")})`;

const OF_SNAPSHOT = `
  ${OF_OBJECT},
  last_error = case when failed then last_error end,
  pending_op = case
    when pending_op ->> 'op' = 'earlier-snapshot' then pending_op
    when lvol_uuid is null and delete_time is null and not failed and ${mayBeOutdated("snapshot")}
      then $4::jsonb end`;

/** A restored database may not have counted what lies on it. */
const SUMS = `
  select coalesce(sum(promised_bytes), 0)::bigint as bytes,
    count(*) filter (where kind = 'l')::integer as lvols,
    count(*) filter (where kind = 's')::integer as snapshots
  from (select promised_bytes, 'l' as kind from lvol
        where disk_id = disk.id and delete_time is null
        union all select promised_bytes, 's' from snapshot
        where disk_id = disk.id and delete_time is null) object`;

/** The rows that other nodes have of disks with one of these serials and namespaces, whatever their model is. */
export async function disksElsewhere(
  client: Sql,
  nodeId: string,
  disks: readonly Pick<DiskRow, "serial" | "nsid">[],
): Promise<readonly DiskRow[]> {
  const found = await client.query(
    `select disk.* from disk join unnest($2::text[], $3::integer[]) key (serial, nsid)
       using (serial, nsid) where disk.node_id <> $1`,
    [nodeId, disks.map(({ serial }) => serial), disks.map(({ nsid }) => nsid)],
  );
  return parseDiskRows(found.rows);
}

/**
 * rows: of disks that were found here and have a row already. Those of other nodes that were not released,
 * and those of other drives that look the same, stay as they are. The former nodes read their rows again.
 */
export async function takeMoved(
  client: Sql,
  rows: readonly DiskRow[],
  revision: bigint,
): Promise<Moved> {
  const [first] = rows;
  if (first === undefined) return NOTHING;
  const { nodeId } = first;
  const found = await client.query<{ id: string; node_id: string }>(
    `select disk.id, disk.node_id
     from disk join jsonb_populate_recordset(null::disk, $1::jsonb) r using (id)
     where disk.node_id <> $2 and disk.wanted = 'release' and disk.state = 'RELEASED'
       and disk.wipe is null and ${SAME} order by disk.id for update of disk`,
    [records(rows), nodeId],
  );
  if (found.rows.length === 0) return NOTHING;
  const ids = found.rows.map(({ id }) => id);
  const moving = [nodeId, revision, ids];
  const lvols = await client.query(
    `update lvol set node_id = $1, ${OF_LVOL}, revision = $2, update_time = now()
     where disk_id = any ($3::uuid[]) returning *`,
    moving,
  );
  const snapshots = await client.query(
    `update snapshot set node_id = $1, ${OF_SNAPSHOT}, revision = $2, update_time = now()
     where disk_id = any ($3::uuid[]) returning *`,
    [...moving, json(earlierSnapshot(new Date()))],
  );
  const disks = await client.query(
    `update disk set node_id = $1, ${OF_DISK}, generation = disk.generation + 1, revision = $2,
       (promised_bytes, lvol_count, snapshot_count) = (${SUMS}),
       last_seen_time = now(), update_time = now()
     from jsonb_populate_recordset(null::disk, $3::jsonb) r where disk.id = r.id
     returning disk.*`,
    [nodeId, revision, records(rows.filter(({ id }) => ids.includes(id)))],
  );
  await client.query(
    `update object_id set node = node.number from node
     where node.node_id = $1 and object_id.id in (
       select id from lvol where disk_id = any ($2::uuid[])
       union all select id from snapshot where disk_id = any ($2::uuid[])
       union all select id from tombstone where disk_id = any ($2::uuid[]))`,
    [nodeId, ids],
  );
  await client.query(`update node set revision = revision + 1 where node_id = any ($1::text[])`, [
    [...new Set(found.rows.map(({ node_id: former }) => former))],
  ]);
  return {
    disks: parseDiskRows(disks.rows),
    lvols: parseLvolRows(lvols.rows),
    snapshots: parseSnapshotRows(snapshots.rows),
  };
}
