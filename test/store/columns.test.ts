// The columns of the database against the tables that SET lists are made of: a column that is missing
// there would be in memory and never be written.
import { pino } from "pino";
import { expect, it } from "vitest";
import { CONTROLLER_COLUMNS } from "../../src/model/controller.ts";
import { SNAPSHOT_COLUMNS } from "../../src/model/snapshot.ts";
import { DISK_COLUMNS } from "../../src/model/disk.ts";
import { LVOL_COLUMNS } from "../../src/model/lvol.ts";
import { assignments, fieldsOf } from "../../src/store/columns.ts";
import { openDatabase } from "../../src/store/database.ts";
import { testDatabase } from "../support/database.ts";

it.each([
  ["lvol", LVOL_COLUMNS],
  ["disk", DISK_COLUMNS],
  ["snapshot", SNAPSHOT_COLUMNS],
  ["controller", CONTROLLER_COLUMNS],
] as const)("every column of %s has an owner, and no other is written", async (table, columns) => {
  await using database = await testDatabase();
  await using pool = openDatabase({ url: database.url, log: pino({ level: "silent" }) });
  const { rows } = await pool.pool.query<{ name: string }>(
    `select column_name as name from information_schema.columns where table_name = $1`,
    [table],
  );
  const owned = assignments(
    fieldsOf(columns, ["fixed", "intent", "status", "both", "writer"]),
    "r",
  );
  const written = owned.split(", ").map((pair) => pair.slice(0, pair.indexOf(" ")));
  expect(written.toSorted()).toEqual(rows.map(({ name }) => name).toSorted());
});
