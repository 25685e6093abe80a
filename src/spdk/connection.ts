// One pipelined JSON-RPC connection to the SPDK target, kept up for as long as the process lives.
// It never sends a request twice, never turns silence into success or failure, and never writes a
// change while `mayMutate` says no.

import { createConnection, type Socket } from "node:net";
import { parseExactJson } from "./exact-json.ts";
import { LineReader, MAX_ANSWER_BYTES } from "./lines.ts";
import type { CallObserver } from "./observer.ts";
import type { Call, Outcome, Settled } from "./outcome.ts";
import { reconnectDelayMs } from "./reconnect.ts";
import { SocketWatch } from "./socket-watch.ts";
import { StoreWindow } from "./store-window.ts";

/** A request must stay below this: releases before 26.05 close the connection at 32 KiB. */
export const MAX_REQUEST_BYTES = 30_000;

/** Unanswered requests per lvstore; SPDK refuses from about 512 on (CONTRACT section 8). */
export const STORE_WINDOW = 256;

/**
 * What one socket write may hold. The next one waits until the kernel took it all, so that a target
 * that does not read cannot collect changes in our memory that would go out after the lease ended.
 */
const MAX_WRITE_BYTES = 131_072;

export type CallOptions = {
  /** How long the caller waits, queueing included. The request itself has no end. */
  readonly waitMs: number;
  /** Ends the wait, not the request. One that was not written yet is never written. */
  readonly signal?: AbortSignal | undefined;
  /** Changes something on the target, so the fence is asked in the tick of the write. */
  readonly mutates?: boolean;
  /** The lvstore's uuid: at most STORE_WINDOW requests of one store are unanswered at once. */
  readonly store?: string | undefined;
  /** The answer lists everything there is, which blocks I/O on the target (CONTRACT section 1). */
  readonly dump?: boolean;
};

export type ConnectionOptions = {
  readonly path: string;
  /** The lease (DESIGN section 4). Asked per change, in the same tick as the socket write. */
  readonly mayMutate: (method: string) => boolean;
  readonly onCall?: CallObserver;
};

type Request = {
  readonly id: number;
  readonly method: string;
  readonly text: string;
  readonly bytes: number;
  readonly options: CallOptions;
  readonly outcome: PromiseWithResolvers<Outcome>;
  readonly settled: PromiseWithResolvers<Settled>;
  phase: "queued" | "sent" | "settled";
  /** Holds a place in its store's window. Without one it waits there, not in the write queue. */
  place: boolean;
  endWait: (outcome: Outcome) => void;
};

type Params = Readonly<Record<string, unknown>>;

/** Starts to connect when constructed and tries again for ever, until disposed of. */
export class SpdkConnection implements AsyncDisposable {
  readonly #options: ConnectionOptions;
  readonly #window = new StoreWindow<Request>(STORE_WINDOW);
  readonly #pending = new Map<number, Request>();
  readonly #connected = new Set<() => void>();
  readonly #disconnected = new Set<(cause: Error) => void>();
  #queue: Request[] = [];
  #socket: Socket | undefined;
  #up = false;
  #writing = false;
  #writePlanned = false;
  #retry: NodeJS.Timeout | undefined;
  #lostAtMs = performance.now();
  readonly #watch: SocketWatch;
  #appearedAtMs = Number.NEGATIVE_INFINITY;
  #connectionNumber = 0;
  #fault = "no connection yet";
  #lastId = 0;
  #disposed = false;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#watch = new SocketWatch(options.path, () => this.#appeared());
    this.#connect();
  }

  get connected(): boolean {
    return this.#up;
  }

  /** Why there is no connection, in words; undefined while there is one. */
  get fault(): string | undefined {
    return this.#up ? undefined : this.#fault;
  }

  /** Which connection this is: 1 for the first, one more for each that followed. */
  get connectionNumber(): number {
    return this.#connectionNumber;
  }

  /** Requests that were sent and not answered, and those that wait for their turn. */
  get unanswered(): { readonly sent: number; readonly queued: number } {
    return { sent: this.#pending.size, queued: this.#queue.length + this.#window.waiting };
  }

  /** Each returns its own removal. A listener is not called for what was before it. */
  onConnected(listener: () => void): () => void {
    this.#connected.add(listener);
    return () => this.#connected.delete(listener);
  }

  onDisconnected(listener: (cause: Error) => void): () => void {
    this.#disconnected.add(listener);
    return () => this.#disconnected.delete(listener);
  }

  /**
   * Queues one request; all of one tick go out in one write. Empty `params` are left out, as SPDK
   * tells `{}` from none (CONTRACT section 1). Throws RangeError on a request that is too long.
   */
  call(method: string, params: Params | undefined, options: CallOptions): Call {
    const id = ++this.#lastId;
    const text = encode(id, method, params);
    const bytes = Buffer.byteLength(text);
    if (bytes >= MAX_REQUEST_BYTES) throw new RangeError(`${method}: request of ${bytes} bytes`);
    const request: Request = {
      id,
      method,
      text,
      bytes,
      options,
      outcome: Promise.withResolvers(),
      settled: Promise.withResolvers(),
      phase: "queued",
      place: false,
      endWait: () => {},
    };
    request.endWait = this.#startWait(method, request);
    if (!this.#up) this.#settle(request, { kind: "not_sent", reason: "down" });
    else if (options.signal?.aborted === true) this.#giveUp(request, "aborted");
    else if (options.store === undefined) this.#enqueue(request);
    else if (this.#window.enter(options.store, request)) this.#enterStore(request);
    return { outcome: request.outcome.promise, settled: request.settled.promise };
  }

  /** Closes for good. What was sent and not answered becomes unknown. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#disposed = true;
    this.#watch[Symbol.dispose]();
    clearTimeout(this.#retry);
    const socket = this.#socket;
    if (socket === undefined) return;
    const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
    this.#lose(socket, new Error("connection disposed"));
    await closed;
  }

  #startWait(method: string, request: Request): Request["endWait"] {
    const { waitMs, mutates = false, dump = false } = request.options;
    const signal = ownSignal(request.options.signal);
    const startMs = performance.now();
    const queued = this.#pending.size + this.#queue.length;
    const observe = this.#options.onCall?.({
      method,
      mutates,
      dump,
      requestBytes: request.bytes,
      queued,
    });
    const timer = setTimeout(() => this.#giveUp(request, "timeout"), waitMs);
    const abort = (): void => this.#giveUp(request, "aborted");
    signal?.addEventListener("abort", abort, { once: true });
    return (outcome) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      request.endWait = () => {};
      request.outcome.resolve(outcome);
      observe?.({ outcome, durationMs: performance.now() - startMs });
    };
  }

  #giveUp(request: Request, reason: "timeout" | "aborted"): void {
    if (request.phase === "sent") request.endWait({ kind: "unknown", reason });
    else this.#settle(request, { kind: "not_sent", reason });
  }

  #settle(request: Request, settled: Settled): void {
    if (request.phase === "settled") return;
    request.phase = "settled";
    this.#pending.delete(request.id);
    this.#leaveStore(request);
    request.endWait(settled);
    request.settled.resolve(settled);
  }

  #enterStore(request: Request): void {
    request.place = true;
    this.#enqueue(request);
  }

  #leaveStore(request: Request): void {
    const { store } = request.options;
    if (store === undefined || !request.place) return;
    const next = this.#window.leave(store, ({ phase }) => phase === "queued");
    if (next !== undefined) this.#enterStore(next);
  }

  #enqueue(request: Request): void {
    this.#queue.push(request);
    if (this.#writePlanned) return;
    this.#writePlanned = true;
    setImmediate(() => {
      this.#writePlanned = false;
      this.#write();
    });
  }

  #write(): void {
    const socket = this.#socket;
    if (socket === undefined || !this.#up || this.#writing) return;
    const texts: string[] = [];
    let bytes = 0;
    let taken = 0;
    for (const request of this.#queue) {
      if (bytes + request.bytes > MAX_WRITE_BYTES) break;
      taken += 1;
      if (request.phase !== "queued") continue;
      if (request.options.mutates === true && !this.#options.mayMutate(request.method)) {
        this.#settle(request, { kind: "not_sent", reason: "fenced" });
        continue;
      }
      request.phase = "sent";
      this.#pending.set(request.id, request);
      texts.push(request.text);
      bytes += request.bytes;
    }
    this.#queue.splice(0, taken);
    if (texts.length === 0) return;
    this.#writing = true;
    socket.write(texts.join(""), () => {
      if (this.#socket !== socket) return;
      this.#writing = false;
      if (this.#queue.length > 0) this.#write();
    });
  }

  #appeared(): void {
    this.#appearedAtMs = performance.now();
    if (this.#socket !== undefined || this.#disposed) return;
    clearTimeout(this.#retry);
    this.#connect();
  }

  #connect(): void {
    this.#watch.renew();
    const socket = createConnection({ path: this.#options.path });
    const reader = new LineReader(MAX_ANSWER_BYTES);
    let fault = new Error("target closed the connection");
    this.#socket = socket;
    socket.on("connect", () => {
      if (this.#socket !== socket) return;
      this.#up = true;
      this.#connectionNumber += 1;
      for (const listener of this.#connected) listener();
    });
    socket.on("data", (chunk: Buffer) => {
      try {
        for (const line of reader.push(chunk)) this.#answered(line);
      } catch (cause) {
        this.#lose(socket, new Error("unusable answer", { cause }));
      }
    });
    socket.on("error", (cause) => (fault = new Error("connection failed", { cause })));
    socket.on("close", () => this.#lose(socket, fault));
  }

  /** Throws on anything but an answer to a request of ours: the stream cannot be trusted then. */
  #answered(line: string): void {
    const answer = parseExactJson(line);
    if (!isObject(answer)) throw new Error("answer is not an object");
    const { id, error } = answer;
    const request = typeof id === "number" ? this.#pending.get(id) : undefined;
    if (request === undefined) throw new Error(`answer to an unknown request ${String(id)}`);
    if ("result" in answer) {
      this.#settle(request, { kind: "ok", result: answer["result"] });
    } else if (isObject(error) && Number.isInteger(error["code"])) {
      const { code, message } = error;
      this.#settle(request, { kind: "error", code: Number(code), message: String(message).trim() });
    } else throw new Error("answer is neither a result nor an error");
  }

  #lose(socket: Socket, cause: Error): void {
    if (this.#socket !== socket) return;
    const wasUp = this.#up;
    this.#socket = undefined;
    this.#up = false;
    this.#fault = `${cause.message}${cause.cause instanceof Error ? `: ${cause.cause.message}` : ""}`;
    this.#writing = false;
    socket.destroy();
    if (wasUp) this.#lostAtMs = performance.now();
    const unsent = [...this.#queue, ...this.#window.clear()];
    this.#queue = [];
    for (const request of unsent) this.#settle(request, { kind: "not_sent", reason: "down" });
    for (const request of this.#pending.values()) {
      this.#settle(request, { kind: "unknown", reason: "disconnected" });
    }
    if (!this.#disposed) {
      const now = performance.now();
      const delayMs = reconnectDelayMs(now - this.#lostAtMs, {
        appearedForMs: now - this.#appearedAtMs,
      });
      this.#retry = setTimeout(() => this.#connect(), delayMs);
    }
    if (wasUp) for (const listener of this.#disconnected) listener(cause);
  }
}

/** Thousands of calls share one signal, and each listener more makes the next one slower to add. */
function ownSignal(signal: AbortSignal | undefined): AbortSignal | undefined {
  return signal === undefined ? undefined : AbortSignal.any([signal]);
}

function encode(id: number, method: string, params: Params | undefined): string {
  const text = params === undefined ? "{}" : JSON.stringify(params);
  const head = `{"jsonrpc":"2.0","id":${id},"method":${JSON.stringify(method)}`;
  return text === "{}" ? `${head}}\n` : `${head},"params":${text}}\n`;
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
