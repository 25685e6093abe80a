// Between grpc-js's callbacks and handlers that are `async (request, context) => response`. The only
// place that knows the callback API: a client's deadline and cancellation become one AbortSignal, an
// error becomes a status, and a call over the limit is refused before its handler runs.
import type {
  handleServerStreamingCall,
  handleUnaryCall,
  ServerUnaryCall,
  ServerWritableStream,
} from "@grpc/grpc-js";
import type { Logger } from "pino";
import type { StorageNodeService } from "../gen/storagenode/v1/storage_node.ts";
import { Refusal } from "../model/errors.ts";
import { statusOf } from "./status.ts";

/** Calls under way at once; waiting costs little, so this only bounds memory. */
const MAX_CALLS = 20_000;

export type CallContext = {
  readonly method: string;
  readonly peer: string;
  /** Aborts when the client cancels or its deadline passes; a committed intent stays. */
  readonly signal: AbortSignal;
  /** W3C trace context of the caller, if it sent a valid one. */
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
    ? StreamHandler<RequestOf<Service[Method]>, ResponseOf<Service[Method]>>
    : UnaryHandler<RequestOf<Service[Method]>, ResponseOf<Service[Method]>>;
};

const TRACEPARENT = /^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/;

/** Calls under way, and the end of those that would not end by themselves. */
export class CallDesk {
  readonly #log: Logger;
  readonly #open = new Set<AbortController>();
  #underWay = 0;
  #draining = false;

  constructor(log: Logger) {
    this.#log = log;
  }

  get underWay(): number {
    return this.#underWay;
  }

  /**
   * Ends streams with UNAVAILABLE, waits with what there is by now (the intent is kept), and refuses
   * what comes from now on.
   */
  drain(): void {
    this.#draining = true;
    for (const call of this.#open) call.abort();
  }

  unary<Request, Response>(
    method: string,
    handler: UnaryHandler<Request, Response>,
  ): handleUnaryCall<Request, Response> {
    return (call, callback) => {
      const ended = new AbortController();
      this.#open.add(ended);
      call.on("cancelled", () => ended.abort());
      const context = contextOf(method, call, ended.signal);
      this.#run(() => handler(call.request, context))
        .then((response) => callback(null, response))
        .catch((error: unknown) => callback(statusOf(error, { method, log: this.#log })))
        .finally(() => this.#open.delete(ended));
    };
  }

  stream<Request, Response>(
    method: string,
    handler: StreamHandler<Request, Response>,
  ): handleServerStreamingCall<Request, Response> {
    return (call) => {
      const ended = new AbortController();
      this.#open.add(ended);
      call.on("cancelled", () => ended.abort());
      const context = contextOf(method, call, ended.signal);
      this.#run(() => this.#pump(call, handler(call.request, context), ended.signal))
        .then(() => call.end())
        .catch((error: unknown) => {
          call.emit("error", statusOf(error, { method, log: this.#log }));
        })
        .finally(() => this.#open.delete(ended));
    };
  }

  async #run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#draining) throw stopping();
    if (this.#underWay >= MAX_CALLS) {
      throw new Refusal("OVERLOADED", "too many calls are under way", { retryAfterMs: 1_000 });
    }
    this.#underWay += 1;
    try {
      return await work();
    } finally {
      this.#underWay -= 1;
    }
  }

  /** Writes at the pace of the client: the next item is made when the last one went out. */
  async #pump<Request, Response>(
    call: ServerWritableStream<Request, Response>,
    items: AsyncIterable<Response>,
    signal: AbortSignal,
  ): Promise<void> {
    for await (const item of items) {
      if (signal.aborted) break;
      if (!call.write(item)) await drained(call, signal);
    }
    if (this.#draining) throw stopping();
  }
}

/** It gives up its lease; whoever takes it answers. */
function stopping(): Refusal {
  return new Refusal("NOT_LEASE_HOLDER", "the agent is stopping", { retryAfterMs: 1_000 });
}

function drained<Request, Response>(
  call: ServerWritableStream<Request, Response>,
  signal: AbortSignal,
): Promise<void> {
  return new Promise((resolve) => {
    call.once("drain", () => resolve());
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

function contextOf<Request, Response>(
  method: string,
  call: ServerUnaryCall<Request, Response> | ServerWritableStream<Request, Response>,
  signal: AbortSignal,
): CallContext {
  const [header] = call.metadata.get("traceparent");
  const traceparent = typeof header === "string" && TRACEPARENT.test(header) ? header : undefined;
  return { method, peer: call.getPeer(), signal, traceparent };
}
