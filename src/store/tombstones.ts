// Tombstones: the row of a deleted volume can be read for a while, then it is compacted: moved into the
// table tombstone, of which nothing is kept in memory. An lvol that comes back after that brings its row
// back, as the row of a deleted volume, and the loops delete it again.
import { z } from "zod";
import { volumeNqn } from "../model/identity.ts";
import { newLvolRow, type LvolRow } from "../model/lvol.ts";
import { records } from "./columns.ts";
import type { Fence } from "./fence.ts";
import type { Rows } from "./rows.ts";
import type { Sql } from "./sql.ts";
import { COMMIT_TOMBSTONES, TOMBSTONE_MS, TOMBSTONES } from "../limits.ts";

export type Tombstone = {
  readonly id: string;
  readonly diskId: string;
  /** Undefined: no lvol was ever observed; what comes back is named by the id. */
  readonly lvolUuid: string | undefined;
  /** As observed when it came back; undefined: it is alone. */
  readonly familyRoot?: string;
};

/** An lvol in a store of this node that no row names. */
export type UnknownLvol = {
  readonly uuid: string;
  /** The volume id, as which it was made; undefined if its name is none. */
  readonly nameAsId: string | undefined;
  /** The disk that its store was made for. */
  readonly diskId: string;
};

const tombstoneSql = z.object({
  id: z.string(),
  disk_id: z.string(),
  lvol_uuid: z.string().nullable(),
});

/**
 * Ids of the rows that are to be compacted now. They were committed as deleted by earlier transactions, so
 * that whoever waited for it has seen it.
 */
export function oldTombstones({
  rows,
  fence,
}: {
  readonly rows: Rows;
  readonly fence: Pick<Fence, "hold">;
}): readonly string[] {
  if (fence.hold !== undefined) return [];
  const before = new Date(Date.now() - TOMBSTONE_MS);
  return rows.oldTombstones(before, { kept: TOMBSTONES, limit: COMMIT_TOMBSTONES });
}

/** Moves rows of deleted volumes that are not being deleted again; returns the ids of those moved. */
export async function compact(client: Sql, ids: readonly string[]): Promise<readonly string[]> {
  if (ids.length === 0) return [];
  const { rows } = await client.query<{ id: string }>(
    `with old as (
       delete from lvol
       where id = any ($1::uuid[]) and delete_time is not null and pending_op is null
       returning id, disk_id, lvol_uuid),
     old_snapshot as (
       delete from snapshot
       where id = any ($1::uuid[]) and delete_time is not null and pending_op is null
       returning id, disk_id, lvol_uuid)
     insert into tombstone (id, disk_id, lvol_uuid)
       select id, disk_id, lvol_uuid from old
       union all select id, disk_id, lvol_uuid from old_snapshot
     returning id`,
    [ids],
  );
  return rows.map(({ id }) => id);
}

/** The compacted tombstones of these lvols. */
export async function findTombstones(
  client: Sql,
  lvols: readonly UnknownLvol[],
): Promise<readonly Tombstone[]> {
  const keys = lvols.flatMap(({ uuid, nameAsId }) => [uuid, ...(nameAsId ? [nameAsId] : [])]);
  const { rows } = await client.query(
    `select id, disk_id, lvol_uuid from tombstone join unnest($1::uuid[]) key
       on uuid_hash(coalesce(lvol_uuid, id)) = uuid_hash(key) and coalesce(lvol_uuid, id) = key`,
    [keys],
  );
  const found = z
    .array(tombstoneSql)
    .parse(rows)
    .map(({ id, disk_id: diskId, lvol_uuid: uuid }): Tombstone => ({
      id,
      diskId,
      lvolUuid: uuid ?? undefined,
    }));
  return found.filter((tombstone) => lvols.some((lvol) => isOf(tombstone, lvol)));
}

export function isOf({ id, diskId, lvolUuid }: Tombstone, lvol: UnknownLvol): boolean {
  if (diskId !== lvol.diskId) return false;
  return lvolUuid === undefined ? id === lvol.nameAsId : lvolUuid === lvol.uuid;
}

/** The size is not known any more, and is not needed to delete it. */
const SIZE_BYTES = 1n;

/** The row of the deleted volume: what else it once had is not known any more. */
export function rowOfTombstone(
  { id, diskId, lvolUuid, familyRoot = id }: Tombstone,
  { nodeId, nqnPrefix }: { readonly nodeId: string; readonly nqnPrefix: string },
  now: Date,
): LvolRow {
  const request = {
    sizeBytes: SIZE_BYTES,
    thin: true,
    diskId: undefined,
    sourceSnapshotId: undefined,
    hosts: [],
    allowAnyHost: false,
    qos: undefined,
  };
  const row = newLvolRow({
    id,
    nodeId,
    diskId,
    familyRoot,
    request,
    promisedBytes: SIZE_BYTES,
    labels: {},
    nqn: volumeNqn(nqnPrefix, id),
    actor: undefined,
    traceparent: undefined,
    revision: 0n,
    now,
  });
  const deleted = { deleteRequestedTime: now, unexportedTime: now, deleteTime: now };
  return { ...row, ...deleted, lvolUuid, observedGeneration: row.generation };
}

/** Puts rows of compacted tombstones in the place of these; returns those that were written. */
export async function restoreRows(
  client: Sql,
  rows: readonly LvolRow[],
  revision: bigint,
): Promise<readonly LvolRow[]> {
  if (rows.length === 0) return [];
  const restored = rows.map((row) => ({ ...row, revision }));
  const result = await client.query<{ id: string }>(
    `with given as (select * from jsonb_populate_recordset(null::lvol, $1::jsonb)),
       compact as (
         delete from tombstone using given
         where uuid_hash(coalesce(tombstone.lvol_uuid, tombstone.id))
             = uuid_hash(coalesce(given.lvol_uuid, given.id)) and tombstone.id = given.id
         returning tombstone.id)
     insert into lvol select given.* from given join compact using (id) returning id`,
    [records(restored)],
  );
  const written = new Set(result.rows.map(({ id }) => id));
  return restored.filter(({ id }) => written.has(id));
}
