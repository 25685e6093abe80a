// The target without its socket: starts requests, has their effects at the ends of polls, hands out
// answers. Changes of one subsystem and of one family keep their order, all others finish in any
// (CONTRACT sections 0.7 and 8).
import { bdevMethods } from "./bdev-methods.ts";
import { DecodeFailed } from "./decode.ts";
import { Gate, type Disposition } from "./gate.ts";
import { generalMethods } from "./general-methods.ts";
import { lvolFamilyMethods } from "./lvol-family-methods.ts";
import { lvolMethods } from "./lvol-methods.ts";
import { HalfDone, type Context, type Later, type Method } from "./method.ts";
import { nvmeMethods } from "./nvme-methods.ts";
import { nvmfAccessMethods } from "./nvmf-access-methods.ts";
import { nvmfSubsystemMethods } from "./nvmf-subsystem-methods.ts";
import { Operations, TargetAbort } from "./operation.ts";
import { releaseNamed, type Release } from "./release.ts";
import type { Request } from "./request.ts";
import { bdevDecodeFailed, nvmfInvalid, RpcError } from "./rpc-error.ts";
import { storeMethods } from "./store-methods.ts";
import type { Target } from "./target.ts";

/** Takes an answer as one line without its newline; undefined: there is none (notification, dropped). */
export type Answer = (line: string | undefined) => void;

type InFlight = {
  readonly later: Later;
  readonly request: Request;
  readonly answer: Answer;
  readonly disposition: Disposition;
  polls: number;
};

export type EngineOptions = Pick<Context, "strict" | "attachable" | "markDisk"> & {
  readonly target: Target;
  /** Default: the newest. */
  readonly release?: Release;
  /** Between 0 and 1: decides which of several finished changes comes first. */
  readonly random?: () => number;
};

export class Engine {
  readonly gate = new Gate();
  readonly release: Release;
  readonly #options: EngineOptions;
  readonly #operations: Operations;
  readonly #methods: ReadonlyMap<string, Method>;
  readonly #random: () => number;
  #inFlight: InFlight[] = [];
  #late: { polls: number; readonly send: () => void }[] = [];

  constructor(options: EngineOptions) {
    this.#options = options;
    this.release = options.release ?? releaseNamed("26.09");
    this.#random = options.random ?? Math.random;
    this.#operations = new Operations({ strict: options.strict });
    const names = () => [...this.#methods.keys()].filter((name) => !this.release.absent.has(name));
    this.#methods = new Map(
      Object.entries({
        ...generalMethods(names),
        ...bdevMethods,
        ...nvmeMethods,
        ...storeMethods,
        ...lvolMethods,
        ...lvolFamilyMethods,
        ...nvmfSubsystemMethods,
        ...nvmfAccessMethods,
      }),
    );
  }

  /** Whether a coming poll has something to do. */
  get busy(): boolean {
    return this.#inFlight.length > 0 || this.#late.length > 0;
  }

  /** Starts one request. Throws TargetAbort where a real target would be gone. */
  start(request: Request, answer: Answer): void {
    const disposition = this.gate.begins(request.method, request.params !== undefined);
    try {
      const started = this.#begin(request);
      if (started.kind === "done")
        this.#answer(request, answer, disposition, { result: started.result });
      else {
        const polls = started.polls + disposition.slowPolls;
        this.#inFlight.push({ later: started, request, answer, disposition, polls });
      }
    } catch (error) {
      this.#answer(request, answer, disposition, { error: this.#rpcError(request, error) });
    }
  }

  /** The end of a poll: what is due has its effect. Stops where the gate says so. */
  completeDue(): void {
    for (const one of this.#late) one.polls -= 1;
    for (const one of this.#late.filter(({ polls }) => polls < 0)) one.send();
    this.#late = this.#late.filter(({ polls }) => polls >= 0);
    const due = new Set(this.#inFlight.filter(({ polls }) => polls <= 0));
    for (const one of this.#inFlight) if (!due.has(one)) one.polls -= 1;
    while (due.size > 0 && !this.gate.stopped) {
      const next = this.#pick(due);
      if (next === undefined) break;
      due.delete(next);
      this.#inFlight = this.#inFlight.filter((one) => one !== next);
      this.#complete(next);
    }
    this.#options.target.flush();
  }

  #begin(request: Request): ReturnType<Method> {
    const method = this.#methods.get(request.method);
    if (method === undefined || this.release.absent.has(request.method)) {
      throw new RpcError(-32601, "Method not found");
    }
    const { target, strict, attachable, markDisk } = this.#options;
    const { method: name, id = "none" } = request;
    const { release } = this;
    const operations = this.#operations;
    const context = { target, operations, strict, release, id, method: name, attachable, markDisk };
    return method(context, release.params(name, request.params));
  }

  /**
   * Lvol changes come before the rest; in each, the heads of all orders in any order. Undefined when
   * all that is due waits behind something slow.
   */
  #pick(due: ReadonlySet<InFlight>): InFlight | undefined {
    const heads: InFlight[] = [];
    const orders = new Set<string>();
    for (const one of this.#inFlight) {
      const { order } = one.later;
      if (order !== undefined && orders.has(order)) continue;
      if (order !== undefined) orders.add(order);
      if (due.has(one)) heads.push(one);
    }
    const changes = heads.filter(({ later }) => later.operation !== undefined);
    const among = changes.length > 0 ? changes : heads;
    return among[Math.floor(this.#random() * among.length)];
  }

  #complete({ later, request, answer, disposition }: InFlight): void {
    let outcome: Outcome;
    try {
      outcome = { result: later.complete() };
    } catch (error) {
      outcome = { error: this.#rpcError(request, error) };
    }
    if ("result" in outcome && outcome.result instanceof HalfDone) {
      const rest = { ...later, polls: 0, complete: outcome.result.rest };
      // In front: what waits behind it in its order still does.
      this.#inFlight.unshift({ later: rest, request, answer, disposition, polls: 0 });
      if (disposition.stopHalfDone) this.#stop(request.method);
      return;
    }
    if (later.operation !== undefined) this.#operations.end(later.operation);
    this.#answer(request, answer, disposition, outcome);
  }

  #answer(request: Request, answer: Answer, disposition: Disposition, outcome: Outcome): void {
    const told = this.#asReleased(request.method, outcome);
    const line = disposition.drop ? undefined : answerLine(request.id, told);
    if (disposition.delayPolls > 0) {
      this.#late.push({ polls: disposition.delayPolls, send: () => answer(line) });
    } else {
      answer(line);
    }
    if (disposition.stopAfter) this.#stop(request.method);
  }

  /** Whoever is told that the target stands still may kill it at once: what was done is on the disks. */
  #stop(method: string): void {
    this.#options.target.flush();
    this.gate.stop(method);
  }

  #asReleased(method: string, outcome: Outcome): Outcome {
    const { release } = this;
    return "error" in outcome
      ? { error: release.error(method, outcome.error) }
      : { result: release.result(method, outcome.result) };
  }

  #rpcError({ method, id = "none" }: Request, error: unknown): RpcError {
    if (error instanceof RpcError) return error;
    if (!(error instanceof DecodeFailed)) throw error;
    if (this.#options.strict) {
      throw new TargetAbort(`${method} (id ${id}) is malformed: ${error.message} (strict)`);
    }
    return method.startsWith("nvmf_") ? nvmfInvalid() : bdevDecodeFailed();
  }
}

type Outcome = { readonly result: unknown } | { readonly error: RpcError };

/** Successful notifications have no answer, failed ones have one with id null. */
export function answerLine(id: string | undefined, outcome: Outcome): string | undefined {
  if ("error" in outcome) {
    const { code, message } = outcome.error;
    const error = JSON.stringify({ code, message });
    return `{"jsonrpc":"2.0","id":${id ?? "null"},"error":${error}}`;
  }
  if (id === undefined) return undefined;
  return `{"jsonrpc":"2.0","id":${id},"result":${JSON.stringify(outcome.result)}}`;
}
