// SQL statements of the writer about controllers.
import { CONTROLLER_COLUMNS, type ControllerRow } from "../model/controller.ts";
import { assignments, fieldsOf, records } from "./columns.ts";
import { parseControllerRows } from "./controller-rows.ts";
import type { Sql } from "./sql.ts";

const INTENT = assignments(fieldsOf(CONTROLLER_COLUMNS, ["intent", "both"]), "r");
const STATUS = assignments(fieldsOf(CONTROLLER_COLUMNS, ["status", "both"]), "r");

/** Writes the rows that admission has changed. */
export async function writeControllerIntents(
  client: Sql,
  rows: readonly ControllerRow[],
): Promise<void> {
  if (rows.length === 0) return;
  await client.query(
    `update controller set ${INTENT}, revision = r.revision, update_time = r.update_time
     from jsonb_populate_recordset(null::controller, $1::jsonb) r
     where controller.node_id = r.node_id and controller.id = r.id`,
    [records(rows)],
  );
}

export async function insertControllers(
  client: Sql,
  rows: readonly ControllerRow[],
  revision: bigint,
): Promise<ControllerRow[]> {
  if (rows.length === 0) return [];
  const result = await client.query(
    `insert into controller select * from jsonb_populate_recordset(null::controller, $1::jsonb)
     on conflict (node_id, id) do nothing returning *`,
    [records(rows.map((row) => ({ ...row, revision })))],
  );
  return parseControllerRows(result.rows);
}

export async function writeControllers(
  client: Sql,
  controllers: readonly ControllerRow[],
  revision: bigint,
): Promise<ControllerRow[]> {
  if (controllers.length === 0) return [];
  const { rows } = await client.query(
    `update controller set ${STATUS}, revision = $2, update_time = now()
     from jsonb_populate_recordset(null::controller, $1::jsonb) r
     where controller.node_id = r.node_id and controller.id = r.id
       and controller.generation = r.generation
     returning controller.*`,
    [records(controllers), revision],
  );
  return parseControllerRows(rows);
}
