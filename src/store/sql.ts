// Queries on a connection, traced and timed. Each statement is a span under the commit that it
// belongs to, with the statement's text and never its values.
import { SpanKind, type Span } from "@opentelemetry/api";
import {
  ATTR_DB_COLLECTION_NAME,
  ATTR_DB_OPERATION_NAME,
  ATTR_DB_QUERY_TEXT,
  ATTR_DB_RESPONSE_STATUS_CODE,
  ATTR_DB_SYSTEM_NAME,
  ATTR_ERROR_TYPE,
  DB_SYSTEM_NAME_VALUE_POSTGRESQL,
} from "@opentelemetry/semantic-conventions";
import type { ClientBase, QueryResult, QueryResultRow } from "pg";
import type { Instruments } from "../telemetry/instruments.ts";
import { childSpan, endSpan, failed } from "../telemetry/trace.ts";

export type Sql = {
  query<Row extends QueryResultRow = QueryResultRow>(
    text: string,
    values?: readonly unknown[],
  ): Promise<QueryResult<Row>>;
};

export function watchedSql(
  client: Pick<ClientBase, "query">,
  { tracer, metrics }: Instruments,
): Sql {
  return {
    async query<Row extends QueryResultRow>(text: string, values: readonly unknown[] = []) {
      const { operation, table } = summaryOf(text);
      const span = childSpan(tracer, table === undefined ? operation : `${operation} ${table}`, {
        kind: SpanKind.CLIENT,
        attributes: {
          [ATTR_DB_SYSTEM_NAME]: DB_SYSTEM_NAME_VALUE_POSTGRESQL,
          [ATTR_DB_OPERATION_NAME]: operation,
          [ATTR_DB_QUERY_TEXT]: text.replaceAll(/\s+/g, " "),
          ...(table === undefined ? {} : { [ATTR_DB_COLLECTION_NAME]: table }),
        },
      });
      const startMs = performance.now();
      let error: string | undefined;
      try {
        return await client.query<Row>(text, [...values]);
      } catch (cause) {
        error = sqlState(cause);
        if (span !== undefined) markFailed(span, error, cause);
        throw cause;
      } finally {
        metrics.statement(operation, performance.now() - startMs, error);
        if (span !== undefined) endSpan(span);
      }
    },
  };
}

function markFailed(span: Span, code: string, cause: unknown): void {
  span.setAttributes({ [ATTR_DB_RESPONSE_STATUS_CODE]: code, [ATTR_ERROR_TYPE]: code });
  failed(span, cause instanceof Error ? cause.message : String(cause));
}

/** SQLSTATE or system error code of an error; `error` if it has neither. */
function sqlState(error: unknown): string {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  return typeof code === "string" ? code : "error";
}

/** The operation and the table of a statement, for the span's name, from its text. */
function summaryOf(text: string): { readonly operation: string; readonly table?: string } {
  const [, verb = "", rest = ""] = /^\s*(\w+)([^]*)$/.exec(text) ?? [];
  const operation = verb.toUpperCase();
  const into = /^\s+(?:into\s+|from\s+)?(\w+)/.exec(rest)?.[1];
  const from = /\bfrom\s+(\w+)/.exec(rest)?.[1];
  const table = operation === "SELECT" ? from : into;
  return table === undefined ? { operation } : { operation, table };
}
