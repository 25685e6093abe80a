// Conversion between SQL (snake_case columns, null) and the model (camelCase fields, undefined),
// and of rows to jsonb for set-based statements. No other module converts names.
import { z } from "zod";
import type { ColumnOwner } from "../model/column-owner.ts";
import { PENDING_OPS } from "../model/pending-op.ts";

/** A nullable column: SQL's null becomes undefined. */
export function optional<T extends z.ZodType>(type: T) {
  return type.nullish().transform((value) => value ?? undefined);
}

/** A bigint inside jsonb, where it is text: JSON numbers are not exact above 2^53. */
export const bigText = z.string().transform((text) => BigInt(text));

/** A time inside jsonb. */
export const jsonTime = z.iso.datetime().transform((text) => new Date(text));

/** The pending_op column. */
export const pendingOpColumn = z.object({
  op: z.enum(PENDING_OPS),
  run: z.string(),
  epoch: bigText,
  since: jsonTime,
  failed: z.boolean(),
});

/** The target_process column. */
export const targetProcessColumn = z.object({
  mark: z.string(),
  socketMtimeNs: optional(bigText),
  discardsMasked: z.boolean().optional(),
  pid: optional(z.number()),
  clock: optional(z.object({ startTicks: bigText, ticks: bigText, tickRate: bigText })),
});

/** Failures of steps, by step and part. */
export const failuresColumn = z.record(
  z.string(),
  z.object({
    attempt: z.number(),
    message: z.string(),
    nextTryTime: jsonTime,
    unanswered: z.literal(true).optional(),
    crashTime: jsonTime.optional(),
  }),
);

/** A row has a value that this agent does not know, as somebody else has written it. */
class UnreadableRow extends Error {
  constructor(table: string, id: unknown, { issues: [first, ...others] }: z.core.$ZodError) {
    const more = others.length === 0 ? "" : ` (and ${others.length} more)`;
    const field = first?.path.map(String).join(".");
    super(`row ${String(id)} of table ${table} cannot be read: ${field}: ${first?.message}${more}`);
    this.name = "UnreadableRow";
  }
}

/** A parser of `select *` rows of a table from a schema over the camelCase names. Throws UnreadableRow. */
export function rowParser<T>(
  table: string,
  schema: z.ZodType<T>,
): (rows: readonly unknown[]) => T[] {
  const record = z.record(z.string(), z.unknown());
  return (rows) =>
    rows.map((row) => {
      const columns = record.parse(row);
      const entries = Object.entries(columns).map(([key, value]) => [camel(key), value]);
      const { data, error } = schema.safeParse(Object.fromEntries(entries));
      if (error !== undefined) throw new UnreadableRow(table, columns["id"], error);
      return data;
    });
}

/**
 * Rows as jsonb_populate_recordset(null::TABLE, $1) takes them: bigint as text, dates as ISO; of undefined
 * there is nothing, which it reads as null. `fields`: no others are in it.
 */
export function records(rows: readonly object[], fields?: ReadonlySet<string>): string {
  return JSON.stringify(rows.map((row) => columnsOf(row, fields)));
}

function columnsOf(row: object, fields: ReadonlySet<string> | undefined): object {
  const columns: Record<string, unknown> = {};
  for (const [field, value] of Object.entries(row)) {
    if (fields === undefined || fields.has(field)) columns[snake(field)] = withTexts(value);
  }
  return columns;
}

/** JSON of a value, with bigint as text. */
export function json(value: object): string {
  return JSON.stringify(withTexts(value));
}

/** A copy with bigints as text. Faster than a replacer, which is called for every value. */
function withTexts(value: unknown): unknown {
  if (typeof value === "bigint") return value.toString();
  if (typeof value !== "object" || value === null || value instanceof Date) return value;
  if (Array.isArray(value)) return value.map(withTexts);
  return Object.fromEntries(
    Object.entries(value).map(([key, part]: [string, unknown]) => [key, withTexts(part)]),
  );
}

/** The fields of the columns that these owners write. */
export function fieldsOf(
  columns: Readonly<Record<string, ColumnOwner>>,
  owners: readonly ColumnOwner[],
): readonly string[] {
  return Object.entries(columns).flatMap(([field, owner]) =>
    owners.includes(owner) ? [field] : [],
  );
}

/** A SET list of these fields' columns, with values of the relation named `from`. */
export function assignments(fields: readonly string[], from: string): string {
  return fields.map((field) => `${snake(field)} = ${from}.${snake(field)}`).join(", ");
}

function camel(name: string): string {
  return name.replace(/_([a-z])/g, (_match, letter: string) => letter.toUpperCase());
}

/** Of the names of columns, which are few. */
const SNAKE = new Map<string, string>();

function snake(name: string): string {
  const known = SNAKE.get(name);
  if (known !== undefined) return known;
  const made = name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  SNAKE.set(name, made);
  return made;
}
