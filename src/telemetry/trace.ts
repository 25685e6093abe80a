// Creates spans. They are made at five places only: a gRPC call, a pass that dispatched steps, a
// step, a call of an adapter (SPDK, a statement, a write to sysfs) and a commit that callers share.
// Adapters make a span only under a recorded one, so polls and idle passes never make any.
import {
  context,
  isSpanContextValid,
  ROOT_CONTEXT,
  SpanStatusCode,
  trace,
  TraceFlags,
  type Context,
  type Span,
  type SpanOptions,
  type Tracer,
} from "@opentelemetry/api";

const TRACEPARENT = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/;

/** The context that a `traceparent` names; undefined for none and for one that is not valid. */
export function contextOf(traceparent: string | undefined): Context | undefined {
  if (traceparent === undefined) return undefined;
  const [, traceId = "", spanId = "", flags = "00"] = TRACEPARENT.exec(traceparent) ?? [];
  const spanContext = { traceId, spanId, traceFlags: Number.parseInt(flags, 16), isRemote: true };
  return isSpanContextValid(spanContext)
    ? trace.setSpanContext(ROOT_CONTEXT, spanContext)
    : undefined;
}

/** W3C `traceparent` of a span, to be stored with an intent; undefined if nothing is traced. */
export function traceparentOf(span: Span): string | undefined {
  const { traceId, spanId, traceFlags } = span.spanContext();
  if (!isSpanContextValid(span.spanContext())) return undefined;
  const flags = (traceFlags & TraceFlags.SAMPLED).toString(16).padStart(2, "0");
  return `00-${traceId}-${spanId}-${flags}`;
}

/**
 * Begins a span under `parent`, to be ended with `endSpan`. It sets the start time itself: the
 * SDK's whole milliseconds are too coarse to order the calls of a step.
 */
export function startSpan(
  tracer: Tracer,
  name: string,
  { parent, ...options }: SpanOptions & { readonly parent: Context },
): Span {
  return tracer.startSpan(name, { startTime: epochMs(), ...options }, parent);
}

export function endSpan(span: Span): void {
  span.end(epochMs());
}

/** Unix time in ms with a fraction, on the monotonic clock. */
function epochMs(): number {
  return performance.timeOrigin + performance.now();
}

/** Runs work in a span under `parent`; an error of work is recorded on the span and rethrown. */
export async function inSpan<T>(
  tracer: Tracer,
  { name, ...options }: SpanOptions & { readonly name: string; readonly parent: Context },
  work: () => Promise<T>,
): Promise<T> {
  const span = startSpan(tracer, name, options);
  try {
    return await context.with(trace.setSpan(options.parent, span), work);
  } catch (error) {
    failed(span, error instanceof Error ? error.message : String(error));
    throw error;
  } finally {
    endSpan(span);
  }
}

/** As inSpan, under the active span; if that is not recorded, runs work without a span. */
export async function inChildSpan<T>(
  tracer: Tracer,
  options: SpanOptions & { readonly name: string },
  work: () => Promise<T>,
): Promise<T> {
  const parent = context.active();
  if (!isRecorded(parent)) return await work();
  return await inSpan(tracer, { ...options, parent }, work);
}

/** A span under the active one, for work that ends in a callback; undefined if not recorded. */
export function childSpan(tracer: Tracer, name: string, options: SpanOptions): Span | undefined {
  const parent = context.active();
  return isRecorded(parent) ? startSpan(tracer, name, { ...options, parent }) : undefined;
}

/** Marks a span as failed. The message is for people and may contain SPDK's error text. */
export function failed(span: Span, message: string): void {
  span.setStatus({ code: SpanStatusCode.ERROR, message });
}

/** Log fields with the ids of a span; none if it is not traced. */
export function traceIds(span: Span): { readonly trace_id?: string; readonly span_id?: string } {
  const { traceId, spanId } = span.spanContext();
  return isSpanContextValid(span.spanContext()) ? { trace_id: traceId, span_id: spanId } : {};
}

/**
 * Whether the span of a context is recorded: it is of this process and has not ended, or it is the
 * sampled remote parent that continues an intent's trace. A span that has ended gets no children
 * from timers that outlive it.
 */
function isRecorded(parent: Context): boolean {
  const span = trace.getSpan(parent);
  if (span === undefined) return false;
  const { isRemote = false, traceFlags } = span.spanContext();
  return span.isRecording() || (isRemote && (traceFlags & TraceFlags.SAMPLED) !== 0);
}
