// The target without its socket: starts requests, applies their effects at the end of a poll,
// returns answers. Changes of one subsystem and of one clone family keep their order; all others
// finish in any order (docs/spdk-contract.md#what-may-be-sent-together).
import { bdevMethods } from "./bdev-methods.ts";
import { DecodeFailed } from "./decode.ts";
import { Gate, type Disposition } from "./gate.ts";
import { generalMethods } from "./general-methods.ts";
import { lvolFamilyMethods } from "./lvol-family-methods.ts";
import { lvolMethods } from "./lvol-methods.ts";
import { after, HalfDone, type Context, type Later, type Method } from "./method.ts";
import { nvmeMethods } from "./nvme-methods.ts";
import { nvmfAccessMethods } from "./nvmf-access-methods.ts";
import { nvmfSubsystemMethods } from "./nvmf-subsystem-methods.ts";
import { Operations, TargetAbort } from "./operation.ts";
import { releaseNamed, type Release } from "./release.ts";
import type { Request } from "./request.ts";
import { bdevDecodeFailed, nvmfInvalid, RpcError } from "./rpc-error.ts";
import { storeMethods } from "./store-methods.ts";
import type { Target } from "./target.ts";

/** Called with the answer line without newline; undefined: no answer (notification, dropped). */
export type Answer = (line: string | undefined) => void;

type InFlight = {
  readonly later: Later;
  readonly request: Request;
  readonly answer: Answer;
  readonly disposition: Disposition;
  polls: number;
};

export type EngineOptions = Pick<
  Context,
  "strict" | "driveAt" | "groupUse" | "markDisk" | "isMarked"
> & {
  readonly target: Target;
  /** Default: the newest release. */
  readonly release?: Release;
  /** Returns 0 to 1, exclusive: chooses which of several finished changes comes first. */
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
  #late: { polls: number; readonly isDue: () => boolean; readonly send: () => void }[] = [];

  constructor(options: EngineOptions) {
    this.#options = options;
    this.release = options.release ?? releaseNamed("26.09");
    this.#random = options.random ?? Math.random;
    this.#operations = new Operations({ strict: options.strict });
    for (const disk of options.target.disks) disk.stopsAtCopy = () => this.gate.stopsAtCopy();
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

  get target(): Target {
    return this.#options.target;
  }

  /** Whether the next poll has effects or late answers to process. */
  get busy(): boolean {
    return this.#inFlight.length > 0 || this.#late.length > 0;
  }

  /** Starts one request. Throws TargetAbort where a real target would crash. */
  start(request: Request, answer: Answer): void {
    const disposition = this.gate.begins(request.method, request.params);
    const { failure, slow } = disposition;
    try {
      if (failure?.half === false) throw new RpcError(failure.code, failure.message);
      const started = this.#begin(request, failure?.half === true);
      if (started.kind === "done")
        this.#answer(request, answer, disposition, { result: started.result });
      else {
        const polls = started.polls + slow.polls;
        const later = slow.ms > 0 ? slowed(started, slow.ms) : started;
        this.#inFlight.push({ later, request, answer, disposition, polls });
      }
    } catch (error) {
      this.#answer(request, answer, disposition, { error: this.#rpcError(request, error) });
    }
  }

  /** The end of a poll: applies the effects that are due, until the gate stops the target. */
  completeDue(): void {
    for (const one of this.#late) one.polls -= 1;
    const sent = this.#late.filter(({ polls, isDue }) => polls < 0 && isDue());
    this.#late = this.#late.filter((one) => !sent.includes(one));
    for (const one of sent) one.send();
    const due = new Set(
      this.#inFlight.filter(({ polls, later }) => polls <= 0 && later.isDue?.() !== false),
    );
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

  #begin(request: Request, failsHalfway: boolean): ReturnType<Method> {
    const method = this.#methods.get(request.method);
    if (method === undefined || this.release.absent.has(request.method)) {
      throw new RpcError(-32601, "Method not found");
    }
    const { target, strict, driveAt, groupUse, markDisk, isMarked } = this.#options;
    const { method: name, id = "none" } = request;
    const { release } = this;
    const operations = this.#operations;
    const disks = { driveAt, groupUse, markDisk, isMarked };
    const facts = { target, operations, strict, release, ...disks };
    const context = { ...facts, id, method: name, failsHalfway };
    return method(context, release.params(name, request.params));
  }

  /**
   * The next effect: the first due member of each order is a candidate, lvol changes come before
   * the others, ties are broken at random. Undefined when every due effect waits behind a slow one.
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
    const changes = heads.filter(({ later }) => later.operations !== undefined);
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
      const { rest: complete, isDue } = outcome.result;
      const rest = { ...later, polls: 0, complete, isDue };
      // At the front, so that later members of the same order keep waiting behind it.
      this.#inFlight.unshift({ later: rest, request, answer, disposition, polls: 0 });
      if (disposition.stopHalfDone) this.#stop(request.method);
      return;
    }
    for (const operation of later.operations ?? []) this.#operations.end(operation);
    this.#answer(request, answer, disposition, outcome);
  }

  #answer(request: Request, answer: Answer, disposition: Disposition, outcome: Outcome): void {
    const released = this.#asReleased(request.method, outcome);
    const line = disposition.drop ? undefined : answerLine(request.id, released);
    const { polls, ms } = disposition.delay;
    if (polls > 0 || ms > 0) {
      this.#late.push({ polls, isDue: after(ms), send: () => answer(line) });
    } else {
      answer(line);
    }
    if (disposition.stopAfter) this.#stop(request.method);
  }

  /** Flushes the disks first: the process may be killed as soon as the stop is reported. */
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

function slowed(later: Later, ms: number): Later {
  const isReady = after(ms);
  return { ...later, isDue: () => isReady() && later.isDue?.() !== false };
}

type Outcome = { readonly result: unknown } | { readonly error: RpcError };

/** A successful notification has no answer, a failed one is answered with id null. */
export function answerLine(id: string | undefined, outcome: Outcome): string | undefined {
  if ("error" in outcome) {
    const { code, message } = outcome.error;
    const error = JSON.stringify({ code, message });
    return `{"jsonrpc":"2.0","id":${id ?? "null"},"error":${error}}`;
  }
  if (id === undefined) return undefined;
  return `{"jsonrpc":"2.0","id":${id},"result":${JSON.stringify(outcome.result)}}`;
}
