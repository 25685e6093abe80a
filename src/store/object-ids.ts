// The ids of volumes and snapshots (table object_id): unique over the fleet, and never used twice.
import { z } from "zod";
import type { UsedId } from "../model/used-ids.ts";
import type { LvolRow } from "../model/lvol.ts";
import { parseLvolRows } from "./lvol-rows.ts";
import type { Sql } from "./sql.ts";

/** Another transaction has committed one of the ids since they were read: to be read again. */
export class IdsTaken extends Error {
  constructor() {
    super("another node has just taken one of the ids; they are read again");
    this.name = "IdsTaken";
  }
}

const usedSql = z.object({ used_id: z.string(), ours: z.boolean(), id: z.string().nullable() });

/** What was made with these ids: the rows of volumes, of any node, and ids whose rows are gone. */
export async function readIds(
  client: Sql,
  nodeId: string,
  ids: readonly string[],
): Promise<{ readonly lvols: readonly LvolRow[]; readonly gone: ReadonlyMap<string, UsedId> }> {
  if (ids.length === 0) return { lvols: [], gone: new Map() };
  const { rows } = await client.query(
    `select used.id as used_id, used.node = node.number as ours, lvol.*
     from object_id used join node on node.node_id = $2 left join lvol on lvol.id = used.id
     where used.id = any ($1::uuid[])`,
    [ids, nodeId],
  );
  const gone = rows.flatMap((row): [string, UsedId][] => {
    const { used_id: id, ours, id: rowId } = usedSql.parse(row);
    return rowId === null ? [[id, { ours }]] : [];
  });
  const lvols = parseLvolRows(rows.filter((row) => usedSql.parse(row).id !== null));
  return { lvols, gone: new Map(gone) };
}

/** A volume or a snapshot, as object_id.kind names it. */
export type NewId = { readonly id: string; readonly kind: "l" | "s" };

/**
 * Takes ids for new volumes and snapshots of the node. Waits for a transaction that is taking one of them, and throws
 * IdsTaken if it commits.
 */
export async function takeIds(client: Sql, nodeId: string, ids: readonly NewId[]): Promise<void> {
  if (ids.length === 0) return;
  // In one order for all nodes: two transactions must not wait for each other.
  const { rowCount } = await client.query(
    `insert into object_id (id, node, kind)
     select id, node.number, kind::"char" from unnest($1::uuid[], $3::text[]) new (id, kind), node
     where node.node_id = $2 order by id on conflict (id) do nothing`,
    [ids.map(({ id }) => id), nodeId, ids.map(({ kind }) => kind)],
  );
  if (rowCount !== ids.length) throw new IdsTaken();
}
