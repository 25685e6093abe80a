// Tracing of a transaction that commits the work of many callers. Each caller has a span of its
// own; the statements are traced under the first span, and the other spans link to it.
import { context, ROOT_CONTEXT, trace, type Span } from "@opentelemetry/api";
import { ATTR } from "../telemetry/attributes.ts";
import { endSpan, failed } from "../telemetry/trace.ts";

/**
 * Runs a transaction (work) under the first span and ends all spans when it settles. `size`: the
 * number of intents and records that it commits.
 */
export async function inSharedCommit<T>(
  spans: readonly Span[],
  size: number,
  work: () => Promise<T>,
): Promise<T> {
  const [lead, ...others] = spans;
  if (lead === undefined) return await context.with(ROOT_CONTEXT, work);
  for (const span of others) span.addLink({ context: lead.spanContext() });
  for (const span of spans) span.setAttribute(ATTR.commitSize, size);
  try {
    return await context.with(trace.setSpan(ROOT_CONTEXT, lead), work);
  } catch (error) {
    for (const span of spans) failed(span, error instanceof Error ? error.message : String(error));
    throw error;
  } finally {
    for (const span of spans) endSpan(span);
  }
}
