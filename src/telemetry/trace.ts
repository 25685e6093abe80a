// Spans, in the few shapes that this project has. A span is made at five seams only: a gRPC call, a
// pass that handed out steps, a step, a call of an adapter (SPDK, a statement, a write to sysfs) and a
// commit that callers share. Adapters make one only under a span that is being recorded, so what
// nobody asked for, a poll or an idle pass, makes none.
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

/** W3C `traceparent` of a span, to be kept with what it caused; undefined where nothing is traced. */
export function traceparentOf(span: Span): string | undefined {
  const { traceId, spanId, traceFlags } = span.spanContext();
  if (!isSpanContextValid(span.spanContext())) return undefined;
  const flags = (traceFlags & TraceFlags.SAMPLED).toString(16).padStart(2, "0");
  return `00-${traceId}-${spanId}-${flags}`;
}

/**
 * Begins a span under `parent`, to be ended with `endSpan`. The SDK's own start times are whole
 * milliseconds, in which the calls of a step have no order.
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

/** Milliseconds since 1970 with a fraction, on the clock that does not jump. */
function epochMs(): number {
  return performance.timeOrigin + performance.now();
}

/** Runs work in a span under `parent`; a throw is recorded as the span's error and thrown on. */
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

/** As inSpan, under the span that is active; without one that is recorded, work runs unseen. */
export async function inChildSpan<T>(
  tracer: Tracer,
  options: SpanOptions & { readonly name: string },
  work: () => Promise<T>,
): Promise<T> {
  const parent = context.active();
  if (!isRecorded(parent)) return await work();
  return await inSpan(tracer, { ...options, parent }, work);
}

/** A span under the one that is active, if that is recorded, for what ends in a callback. */
export function childSpan(tracer: Tracer, name: string, options: SpanOptions): Span | undefined {
  const parent = context.active();
  return isRecorded(parent) ? startSpan(tracer, name, { ...options, parent }) : undefined;
}

/** Marks a span as failed. The text is for people and may hold what SPDK said. */
export function failed(span: Span, message: string): void {
  span.setStatus({ code: SpanStatusCode.ERROR, message });
}

/** For a log line that is written outside of the span that it tells of. */
export function traceIds(span: Span): { readonly trace_id?: string; readonly span_id?: string } {
  const { traceId, spanId } = span.spanContext();
  return isSpanContextValid(span.spanContext()) ? { trace_id: traceId, span_id: spanId } : {};
}

/**
 * A span of this process that has not ended, or an intent's trace taken up again. One that has ended
 * is not recorded any more: timers that outlive it cause nothing in it.
 */
function isRecorded(parent: Context): boolean {
  const span = trace.getSpan(parent);
  if (span === undefined) return false;
  const { isRemote = false, traceFlags } = span.spanContext();
  return span.isRecording() || (isRemote && (traceFlags & TraceFlags.SAMPLED) !== 0);
}
