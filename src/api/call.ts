// Adapts handlers of the form `async (request, context) => response` to the callback API of
// grpc-js: a client's deadline and cancellation become one AbortSignal, an error becomes a status,
// and a call over its limits is refused before its handler runs.
import {
  status as grpcStatus,
  type handleBidiStreamingCall,
  type handleServerStreamingCall,
  type handleUnaryCall,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceError,
} from "@grpc/grpc-js";
import {
  context,
  INVALID_SPAN_CONTEXT,
  ROOT_CONTEXT,
  SpanKind,
  trace,
  type Span,
} from "@opentelemetry/api";
import {
  ATTR_RPC_METHOD,
  ATTR_RPC_STATUS_CODE,
  ATTR_RPC_SYSTEM_NAME,
} from "@opentelemetry/semantic-conventions";
import type { Logger } from "pino";
import type { StorageNodeService } from "../gen/storagenode/v1/storage_node.ts";
import { anyCaller, type Caller } from "../model/caller.ts";
import { Refusal } from "../model/errors.ts";
import { ATTR } from "../telemetry/attributes.ts";
import type { Instruments } from "../telemetry/instruments.ts";
import { contextOf, endSpan, failed, startSpan, traceparentOf } from "../telemetry/trace.ts";
import { CallLimits } from "./call-limits.ts";
import { CallerContext } from "./gate.ts";
import type { Serialized } from "./serialized.ts";
import { statusOf } from "./status.ts";

export type CallContext = {
  readonly method: string;
  /**
   * Aborts when the client cancels, its deadline passes or the agent stops; a committed intent
   * stays committed.
   */
  readonly signal: AbortSignal;
  readonly caller: Caller;
  /** The name of the caller, as it is stored with what was asked. */
  readonly actor: string;
  /** W3C traceparent of this call's span, a child of the caller's; stored with the intent. */
  readonly traceparent: string | undefined;
};

type Service = typeof StorageNodeService;
type RequestOf<M> = M extends { requestDeserialize: (bytes: never) => infer R } ? R : never;
type ResponseOf<M> = M extends { responseDeserialize: (bytes: never) => infer R } ? R : never;

export type UnaryHandler<Request, Response> = (
  request: Request,
  context: CallContext,
) => Promise<Response>;

export type StreamHandler<Request, Response> = (
  request: Request,
  context: CallContext,
) => AsyncIterable<Response>;

/** One handler for each RPC of the service. */
export type StorageNodeHandlers = {
  readonly [Method in keyof Service]: Service[Method] extends { responseStream: true }
    ? StreamHandler<
        RequestOf<Service[Method]>,
        ResponseOf<Service[Method]> | Serialized<ResponseOf<Service[Method]>>
      >
    : UnaryHandler<RequestOf<Service[Method]>, ResponseOf<Service[Method]>>;
};

/**
 * When a stream takes its next item: when the buffer has room for it, or only once the item before was
 * handed to the connection, whose flow control a slow reader holds up.
 */
export type Pacing = "buffered" | "sent";

type StreamCall<Request, Response> =
  ServerWritableStream<Request, Response> | ServerDuplexStream<Request, Response>;

/** What every kind of call has. */
type AnyCall = Pick<
  ServerUnaryCall<unknown, unknown>,
  "metadata" | "getPeer" | "getAuthContext"
> & {
  readonly on: (event: "cancelled", listener: () => void) => unknown;
};

/** Abort reason of a call's signal: the caller cancelled or timed out, or the agent is stopping. */
const CALL_ENDED = new Error("the call has ended");

/**
 * Methods with this prefix get a span. Health probes do not: they are frequent and change nothing.
 */
const TRACED_PREFIX = "storagenode.v1.";

/** Codes that mark the span as failed (OpenTelemetry semantic conventions for gRPC servers). */
const SERVER_FAULTS: ReadonlySet<number> = new Set([
  grpcStatus.UNKNOWN,
  grpcStatus.DEADLINE_EXCEEDED,
  grpcStatus.UNIMPLEMENTED,
  grpcStatus.INTERNAL,
  grpcStatus.UNAVAILABLE,
  grpcStatus.DATA_LOSS,
]);

/** Serves calls, counts those in progress, and ends them when the agent stops. */
export class OpenCalls {
  readonly #log: Logger;
  readonly #instruments: Instruments;
  readonly #asks: boolean;
  readonly #open = new Set<AbortController>();
  readonly #limits = new CallLimits();
  #draining = false;

  /** asks: a call without a known caller is refused; otherwise everybody on the network may call. */
  constructor(log: Logger, instruments: Instruments, { asks }: { readonly asks: boolean }) {
    this.#log = log;
    this.#instruments = instruments;
    this.#asks = asks;
  }

  /**
   * For the stop of the agent: ends streams with UNAVAILABLE, ends waits with the current row (the
   * intent stays committed), and refuses all later calls.
   */
  drain(): void {
    this.#draining = true;
    for (const call of this.#open) call.abort(CALL_ENDED);
  }

  unary<Request, Response>(
    method: string,
    handler: UnaryHandler<Request, Response>,
  ): handleUnaryCall<Request, Response> {
    return (call, callback) => {
      this.#serve(method, call, async (callContext) => {
        using stack = new DisposableStack();
        stack.use(this.#limits.enterCall({ method, peer: call.getPeer() }));
        return await handler(call.request, callContext);
      })
        .then((response) => callback(null, response))
        .catch((error: ServiceError) => callback(error));
    };
  }

  stream<Request, Response>(
    method: string,
    pacing: Pacing,
    handler: StreamHandler<Request, Response>,
  ): handleServerStreamingCall<Request, Response> {
    return (call) =>
      this.#stream(method, pacing, call, (callContext) => handler(call.request, callContext));
  }

  /** Each request is answered before the next one is read, and read only once the client reads. */
  duplex<Request, Response>(
    method: string,
    answer: (request: Request) => Response,
  ): handleBidiStreamingCall<Request, Response> {
    return (call) =>
      this.#stream(method, "sent", call, async function* ({ signal }) {
        for await (const request of requestsOf(call, signal)) yield answer(request);
      });
  }

  #stream<Request, Response>(
    method: string,
    pacing: Pacing,
    call: StreamCall<Request, Response>,
    items: (callContext: CallContext) => AsyncIterable<Response>,
  ): void {
    this.#serve(method, call, async (callContext) => {
      using stack = new DisposableStack();
      stack.use(this.#limits.enterStream({ method, peer: call.getPeer() }));
      await this.#pump(call, items(callContext), { pacing, signal: callContext.signal });
    })
      .then(() => call.end())
      .catch((error: ServiceError) => {
        call.emit("error", error);
      });
  }

  /**
   * Runs one call in its span and records its duration by status code. Throws only ServiceError.
   */
  async #serve<T>(
    method: string,
    call: AnyCall,
    work: (callContext: CallContext) => Promise<T>,
  ): Promise<T> {
    const startMs = performance.now();
    const ended = new AbortController();
    this.#open.add(ended);
    // grpc-js emits "cancelled" for answered calls too; the shared reason avoids a DOMException per
    // call.
    call.on("cancelled", () => {
      if (this.#open.has(ended)) ended.abort(CALL_ENDED);
    });
    const { span, callContext } = this.#begin(method, call, ended.signal);
    let code: number = grpcStatus.OK;
    try {
      return await context.with(trace.setSpan(ROOT_CONTEXT, span), () =>
        this.#run(() => work(callContext)),
      );
    } catch (error) {
      const status = statusOf(error, { method, log: this.#log });
      code = status.code;
      if (SERVER_FAULTS.has(code)) failed(span, status.details);
      throw status;
    } finally {
      const name = grpcStatus[code] ?? String(code);
      this.#instruments.metrics.grpcCall({
        method,
        code: name,
        durationMs: performance.now() - startMs,
      });
      span.setAttribute(ATTR_RPC_STATUS_CODE, name);
      endSpan(span);
      this.#open.delete(ended);
    }
  }

  #begin(
    method: string,
    call: AnyCall,
    signal: AbortSignal,
  ): { readonly span: Span; readonly callContext: CallContext } {
    const caller = this.#callerOf(call);
    const [header] = call.metadata.get("traceparent");
    const sent = contextOf(typeof header === "string" ? header : undefined);
    const attributes = {
      [ATTR_RPC_SYSTEM_NAME]: "grpc",
      [ATTR_RPC_METHOD]: method,
      [ATTR.actor]: caller.name,
    };
    const span = method.startsWith(TRACED_PREFIX)
      ? startSpan(this.#instruments.tracer, method, {
          kind: SpanKind.SERVER,
          attributes,
          parent: sent ?? ROOT_CONTEXT,
        })
      : trace.wrapSpanContext(INVALID_SPAN_CONTEXT);
    const traceparent = traceparentOf(span);
    return { span, callContext: { method, signal, caller, actor: caller.name, traceparent } };
  }

  #callerOf(call: AnyCall): Caller {
    const context = call.getAuthContext();
    if (context instanceof CallerContext) return context.caller;
    if (this.#asks) throw new Error("a call came past the gate");
    return anyCaller(`tcp:${call.getPeer()}`);
  }

  async #run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#draining) throw stopping();
    return await work();
  }

  /** Writes with back-pressure: takes the next item only when the pacing allows it. */
  async #pump<Request, Response>(
    call: StreamCall<Request, Response>,
    items: AsyncIterable<Response>,
    { pacing, signal }: { readonly pacing: Pacing; readonly signal: AbortSignal },
  ): Promise<void> {
    for await (const item of items) {
      if (signal.aborted) break;
      if (pacing === "sent") await untilAbort(signal, (done) => call.write(item, done));
      else if (!call.write(item)) await untilAbort(signal, (done) => call.once("drain", done));
    }
    if (this.#draining) throw stopping();
  }
}

/** Until the client sends no more or the signal aborts; each is read when it is asked for. */
async function* requestsOf<Request, Response>(
  call: ServerDuplexStream<Request, Response>,
  signal: AbortSignal,
): AsyncGenerator<Request> {
  // The end of the requests is not the end of the call, which has a status to send.
  const requests: AsyncIterator<Request> = call.iterator({ destroyOnReturn: false });
  while (!signal.aborted) {
    const read: IteratorResult<Request>[] = [];
    await untilAbort(signal, (done) => {
      // The end of the call is an error to a reader of requests.
      requests
        .next()
        .then((next) => read.push(next))
        .catch(() => {})
        .finally(done);
    });
    const [next] = read;
    if (next === undefined || next.done === true) return;
    yield next.value;
  }
}

/** A stopping agent releases its lease: the client should retry with the next holder. */
function stopping(): Refusal {
  return new Refusal("NOT_LEASE_HOLDER", "the agent is stopping", { retryAfterMs: 1_000 });
}

/** Resolves when `begin` calls back or the signal aborts; leaves no listener on the signal. */
function untilAbort(signal: AbortSignal, begin: (done: () => void) => void): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      signal.removeEventListener("abort", end);
      resolve();
    };
    signal.addEventListener("abort", end, { once: true });
    begin(end);
    if (signal.aborted) end();
  });
}
