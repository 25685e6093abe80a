// One pipelined JSON-RPC connection to the SPDK target, reconnected for as long as the process
// runs. It never sends a request twice, never reports a missing answer as success or failure, and
// never writes a change while `mayMutate` returns false.

import { createConnection, type Socket } from "node:net";
import { parseExactJson } from "./exact-json.ts";
import { AnswerTooLong, LineReader, MAX_ANSWER_BYTES } from "./lines.ts";
import type { CallObserver } from "./observer.ts";
import type { Call, Outcome, Settled } from "./outcome.ts";
import { reconnectDelayMs } from "./reconnect.ts";
import { SocketWatch } from "./socket-watch.ts";
import { StoreWindow } from "./store-window.ts";
import { SPDK_REQUEST_BYTES, STORE_WINDOW } from "../limits.ts";

/**
 * Upper limit of one socket write. The next write waits until the kernel has accepted the whole one
 * before: otherwise changes for a target that does not read would be buffered in this process and
 * go out after the lease has ended.
 */
const MAX_WRITE_BYTES = 131_072;

export type CallOptions = {
  /** How long the caller waits, queueing included. A request that was sent runs on. */
  readonly waitMs: number;
  /** Ends the wait, not a request that was sent. A request that is still queued is not sent. */
  readonly signal?: AbortSignal | undefined;
  /** The request changes the target: `mayMutate` is called in the same tick as the socket write. */
  readonly mutates?: boolean;
  /** The lvstore's uuid: at most STORE_WINDOW requests of one store are unanswered at once. */
  readonly store?: string | undefined;
  /**
   * The answer lists all objects of a kind, which blocks I/O on the target
   * (docs/spdk-contract.md#lists-block-io).
   */
  readonly dump?: boolean;
};

export type ConnectionOptions = {
  /** Unix socket of the target. */
  readonly path: string;
  /**
   * The write fence (docs/architecture.md#r12-one-writer). Called per change, in the same tick as
   * the socket write.
   */
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
  /** Of performance.now(); 0: not sent. */
  sentMs: number;
  /** Counted in its store's window. False: it waits in StoreWindow, not in the write queue. */
  inWindow: boolean;
  endWait: (outcome: Outcome) => void;
};

type Params = Readonly<Record<string, unknown>>;

/** Connects on construction and reconnects until it is disposed. */
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
  #socketCreatedAtMs = Number.NEGATIVE_INFINITY;
  #connectionNumber = 0;
  #fault = "no connection yet";
  #lastId = 0;
  #answers = 0;
  #disposed = false;

  constructor(options: ConnectionOptions) {
    this.#options = options;
    this.#watch = new SocketWatch(options.path, () => this.#onSocketCreated());
    this.#connect();
  }

  get connected(): boolean {
    return this.#up;
  }

  /** Why there is no connection, as a text for people; undefined while connected. */
  get fault(): string | undefined {
    return this.#up ? undefined : this.#fault;
  }

  /** Number of connections made so far: 0 before the first one, one more for each reconnect. */
  get connectionNumber(): number {
    return this.#connectionNumber;
  }

  /** Number of requests sent and not yet answered, and of requests not sent yet. */
  get unanswered(): { readonly sent: number; readonly queued: number } {
    return { sent: this.#pending.size, queued: this.#queue.length + this.#window.waiting };
  }

  /** Number of answers received so far, over all connections. */
  get answers(): number {
    return this.#answers;
  }

  /** Methods of the requests sent and not yet answered, in the order in which they were sent. */
  *waiting(): IteratorObject<{ readonly method: string; readonly sentMs: number }, undefined> {
    for (const { method, sentMs } of this.#pending.values()) yield { method, sentMs };
    return undefined;
  }

  /** Returns a function that removes the listener. It is called for later connections only. */
  onConnected(listener: () => void): () => void {
    this.#connected.add(listener);
    return () => this.#connected.delete(listener);
  }

  onDisconnected(listener: (cause: Error) => void): () => void {
    this.#disconnected.add(listener);
    return () => this.#disconnected.delete(listener);
  }

  /**
   * Queues one request; requests of one tick share one socket write. Empty `params` are omitted,
   * because SPDK treats `{}` unlike no params (docs/spdk-contract.md#transport-and-framing). Throws
   * RangeError if the request has SPDK_REQUEST_BYTES or more.
   */
  call(method: string, params: Params | undefined, options: CallOptions): Call {
    const id = ++this.#lastId;
    const text = encode(id, method, params);
    const bytes = Buffer.byteLength(text);
    if (bytes >= SPDK_REQUEST_BYTES) {
      const limit = `must be less than ${SPDK_REQUEST_BYTES} bytes`;
      throw new RangeError(`${method}: request of ${bytes} bytes, ${limit}`);
    }
    const request: Request = {
      id,
      method,
      text,
      bytes,
      options,
      outcome: Promise.withResolvers(),
      settled: Promise.withResolvers(),
      phase: "queued",
      sentMs: 0,
      inWindow: false,
      endWait: () => {},
    };
    request.endWait = this.#startWait(method, request);
    if (!this.#up) this.#settle(request, { kind: "not_sent", reason: "down" });
    else if (options.signal?.aborted === true) this.#giveUp(request, "aborted");
    else if (options.store === undefined) this.#enqueue(request);
    else if (this.#window.enter(options.store, request)) this.#enterStore(request);
    return { outcome: request.outcome.promise, settled: request.settled.promise };
  }

  /** Closes without reconnecting. Requests sent and not answered end with outcome unknown. */
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
    request.inWindow = true;
    this.#enqueue(request);
  }

  #leaveStore(request: Request): void {
    const { store } = request.options;
    if (store === undefined || !request.inWindow) return;
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
      request.sentMs = performance.now();
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

  #onSocketCreated(): void {
    this.#socketCreatedAtMs = performance.now();
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
        for (const line of reader.push(chunk)) this.#handleAnswer(line);
      } catch (cause) {
        this.#lose(socket, new Error("invalid answer from the target", { cause }));
      }
    });
    socket.on("error", (cause) => (fault = new Error("connection failed", { cause })));
    socket.on("close", () => this.#lose(socket, fault));
  }

  /**
   * Throws on a line that is no answer to a pending request: the stream may be out of sync then,
   * and the caller closes the connection.
   */
  #handleAnswer(line: string): void {
    const answer = parseExactJson(line);
    if (!isObject(answer)) throw new Error("answer is not an object");
    const { id, error } = answer;
    const request = typeof id === "number" ? this.#pending.get(id) : undefined;
    if (request === undefined) throw new Error(`answer to an unknown request ${String(id)}`);
    this.#answers += 1;
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
    const reason = cause.cause instanceof AnswerTooLong ? "too_long" : "disconnected";
    for (const request of this.#pending.values()) {
      this.#settle(request, { kind: "unknown", reason });
    }
    if (!this.#disposed) {
      const now = performance.now();
      const delayMs = reconnectDelayMs(now - this.#lostAtMs, {
        socketAgeMs: now - this.#socketCreatedAtMs,
      });
      this.#retry = setTimeout(() => this.#connect(), delayMs);
    }
    if (wasUp) for (const listener of this.#disconnected) listener(cause);
  }
}

/**
 * A signal per call: thousands of calls share the caller's signal, and adding a listener to a
 * signal gets slower with each listener it has.
 */
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
