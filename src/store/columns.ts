// Between SQL and the model: snake_case columns and null there, camelCase and undefined here, and
// rows as jsonb for set-based statements. The only place that knows of either spelling.
import { z } from "zod";

/** A nullable column: SQL's null becomes undefined. */
export function optional<T extends z.ZodType>(type: T) {
  return type.nullish().transform((value) => value ?? undefined);
}

/** A bigint inside jsonb, where it is text: JSON numbers are not exact above 2^53. */
export const bigText = z.string().transform((text) => BigInt(text));

/** A change that was written down before it was sent. */
export const pendingOpColumn = z.object({
  op: z.enum(["delete", "attach", "detach", "create-store", "zero-free-space"]),
  run: z.string(),
  epoch: bigText,
  since: z.iso.datetime().transform((text) => new Date(text)),
  failed: z.boolean(),
});

/** A parser of `select *` rows from a schema over the camelCase names. */
export function rowParser<T>(schema: z.ZodType<T>): (rows: readonly unknown[]) => T[] {
  const record = z.record(z.string(), z.unknown());
  return (rows) =>
    rows.map((row) => {
      const entries = Object.entries(record.parse(row)).map(([key, value]) => [camel(key), value]);
      return schema.parse(Object.fromEntries(entries));
    });
}

/** Rows as jsonb_populate_recordset(null::TABLE, $1) takes them: bigint as text, dates as ISO. */
export function records(rows: readonly object[]): string {
  const columns = rows.map((row) =>
    Object.fromEntries(
      Object.entries(row).map(([key, value]): [string, unknown] => [snake(key), value ?? null]),
    ),
  );
  return JSON.stringify(columns, (_key, value: unknown) =>
    typeof value === "bigint" ? value.toString() : value,
  );
}

function camel(name: string): string {
  return name.replace(/_([a-z])/g, (_match, letter: string) => letter.toUpperCase());
}

function snake(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
