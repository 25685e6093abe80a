// Runs the loops. Objects that something happened to are planned in the next turn of the event loop,
// each loop's step is handed to its lanes, and the answer makes the object be planned again. Nothing
// is polled, and an object nothing happened to costs nothing.
//
// The driver knows no volume and no disk: what there is to know of a kind of object is its `Kind`.
import { context, ROOT_CONTEXT, trace, type Span } from "@opentelemetry/api";
import type { Logger } from "pino";
import { ATTR } from "../../telemetry/attributes.ts";
import type { Instruments } from "../../telemetry/instruments.ts";
import { endSpan, failed, traceIds } from "../../telemetry/trace.ts";
import { PassTrace, type IntentTrace } from "./pass-trace.ts";

/** How a step came out. `retry`: again after a back-off. `fatal`: only a new intent can help. */
export type StepResult =
  | { readonly kind: "ok" }
  | { readonly kind: "retry"; readonly message: string }
  | { readonly kind: "fatal"; readonly message: string };

export type Failure = {
  readonly message: string;
  readonly attempt: number;
  readonly nextTryTime: Date;
  readonly fatal: boolean;
};

type Moment = { readonly now: Date; readonly inFlight: boolean };

type Loop<View, Step> = {
  readonly name: string;
  readonly plan: (view: View) => Step | undefined;
};

/** One kind of object: how it is viewed, planned, acted on and recorded. */
export type Kind<View, Step extends { readonly kind: string }> = {
  readonly name: string;
  readonly loops: readonly Loop<View, Step>[];
  /** Objects that are planned before the others of a pass; undefined: in the order of their wakes. */
  readonly first?: (id: string) => boolean;
  /** Undefined: there is no such object any more. */
  readonly view: (id: string, moment: Moment) => View | undefined;
  /** Which trace the object's intent was committed in, and whether that is still being served. */
  readonly intent: (view: View) => IntentTrace;
  /** Whether this agent may do that now; what it may not do is planned again when it may. */
  readonly permits: (act: Step["kind"] | "record") => boolean;
  /** Whether a step changes something, as opposed to looking. */
  readonly changes: (act: Step["kind"]) => boolean;
  /**
   * Whether an earlier step of the present intent ended as `fatal`: the object is still observed, and
   * nothing of it is changed before a new intent.
   */
  readonly gaveUp: (view: View) => boolean;
  /** Performs a step in its lanes; must not throw for anything the target or the kernel answers. */
  readonly perform: (view: View, step: Step) => Promise<StepResult>;
  /** Writes down what was seen, if it differs; resolves once committed, with whether it was written. */
  readonly record: (view: View) => Promise<boolean> | undefined;
  readonly recordFailure: (view: View, failure: Failure) => Promise<boolean>;
};

/** What a pass was for: the loop began, something happened, or a time had come. */
export type PassReason = "start" | "wake" | "period";

export type LoopStatus = {
  readonly name: string;
  readonly passes: number;
  readonly lastReason: PassReason | undefined;
  readonly steps: number;
  readonly lastPassTime: Date | undefined;
  readonly lastDurationMs: number;
  readonly lastError: string | undefined;
};

/** Objects planned in one pass. */
const PASS_OBJECTS = 64;
const BACKOFF_FIRST_MS = 200;
const BACKOFF_LAST_MS = 60_000;

type Backoff = { attempt: number; untilMs: number; timer: NodeJS.Timeout };

type Dispatched<View, Step> = {
  readonly loop: string;
  readonly id: string;
  readonly key: string;
  readonly view: View;
  readonly step: Step;
  readonly span: Span;
  readonly startMs: number;
};

export class Driver<View, Step extends { readonly kind: string }> {
  readonly #kind: Kind<View, Step>;
  readonly #log: Logger;
  readonly #instruments: Instruments;
  /** What waits to be planned, in the order of its wakes. */
  readonly #dirty = new Set<string>();
  readonly #urgent = new Set<string>();
  /** Steps in flight by object; a key is `loop/id`. */
  readonly #busy = new Map<string, Promise<void>>();
  readonly #inFlight = new Map<string, number>();
  readonly #recording = new Set<string>();
  readonly #generations = new Map<string, bigint>();
  readonly #backoff = new Map<string, Backoff>();
  readonly #status = new Map<string, { -readonly [Key in keyof LoopStatus]: LoopStatus[Key] }>();
  #scheduled = false;
  #paused = true;
  #closed = false;

  constructor(kind: Kind<View, Step>, log: Logger, instruments: Instruments) {
    this.#kind = kind;
    this.#log = log.child({ over: kind.name });
    this.#instruments = instruments;
    for (const { name } of kind.loops) {
      this.#status.set(name, {
        name,
        passes: 0,
        lastReason: undefined,
        steps: 0,
        lastPassTime: undefined,
        lastDurationMs: 0,
        lastError: undefined,
      });
    }
  }

  get status(): readonly LoopStatus[] {
    return [...this.#status.values()];
  }

  /** Whether nothing waits to be planned and no step or record is in flight. */
  get idle(): boolean {
    return this.#waiting === 0 && this.#busy.size === 0 && this.#recording.size === 0;
  }

  /** Starts planning what was woken so far. */
  start(): void {
    this.#paused = false;
    this.#schedule();
  }

  /** Says: look at this object. */
  wake(id: string): void {
    const urgent = this.#kind.first?.(id) === true;
    (urgent ? this.#urgent : this.#dirty).add(id);
    this.#schedule();
  }

  /** Forgets back-offs of an object: a new intent, or the target is back. */
  retryNow(id: string): void {
    for (const { name } of this.#kind.loops) {
      const key = `${name}/${id}`;
      clearTimeout(this.#backoff.get(key)?.timer);
      this.#backoff.delete(key);
    }
    this.wake(id);
  }

  /** A commit touched this object: a new intent ends its back-offs, a mere status does not. */
  retryIfIntentChanged(id: string, generation: bigint | undefined): void {
    const changed = generation !== undefined && this.#generations.get(id) !== generation;
    if (generation !== undefined) this.#generations.set(id, generation);
    if (changed) this.retryNow(id);
    else this.wake(id);
  }

  /** Whether a step on this object was handed out and is not answered yet. */
  inFlight(id: string): boolean {
    return (this.#inFlight.get(id) ?? 0) > 0;
  }

  /** As retryNow, for every object that is in a back-off. */
  retryAllNow(): void {
    for (const key of this.#backoff.keys()) this.retryNow(key.slice(key.indexOf("/") + 1));
  }

  #schedule(): void {
    if (this.#scheduled || this.#paused || this.#closed || this.#waiting === 0) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      // Whoever woke it is not who it works for.
      context.with(ROOT_CONTEXT, () => this.#pass());
    });
  }

  #pass(): void {
    if (this.#closed) return;
    const started = performance.now();
    const now = new Date();
    // The rest in the next turn: answers, commits and calls are not kept waiting by a thousand plans,
    // and the target works on the first while the last are planned.
    const ids = this.#take();
    const passTrace = new PassTrace(this.#instruments.tracer, this.#kind.name, ids.length);
    for (const id of ids) this.#planObject(id, now, passTrace);
    passTrace.end();
    for (const status of this.#status.values()) {
      this.#instruments.metrics.pass(status.name);
      status.lastReason = status.passes === 0 ? "start" : "wake";
      status.passes += 1;
      status.lastPassTime = now;
      status.lastDurationMs = performance.now() - started;
    }
    this.#schedule();
  }

  get #waiting(): number {
    return this.#urgent.size + this.#dirty.size;
  }

  /** The next to be planned, urgent ones before the others. */
  #take(): readonly string[] {
    const ids: string[] = [];
    for (const waiting of [this.#urgent, this.#dirty]) {
      for (const id of waiting) {
        if (ids.length === PASS_OBJECTS) return ids;
        waiting.delete(id);
        ids.push(id);
      }
    }
    return ids;
  }

  #planObject(id: string, now: Date, passTrace: PassTrace): void {
    const moment = { now, inFlight: this.inFlight(id) };
    const view = this.#kind.view(id, moment);
    if (view === undefined) return;
    for (const loop of this.#kind.loops) {
      const key = `${loop.name}/${id}`;
      if (this.#busy.has(key) || (this.#backoff.get(key)?.untilMs ?? 0) > now.getTime()) continue;
      const step = this.#stepOf(loop, view);
      if (step === undefined || !this.#kind.permits(step.kind)) continue;
      const attributes = {
        [ATTR.objectKind]: this.#kind.name,
        [ATTR.objectId]: id,
        [ATTR.loop]: loop.name,
        [ATTR.step]: step.kind,
        [ATTR.attempt]: (this.#backoff.get(key)?.attempt ?? 0) + 1,
      };
      const span = passTrace.step(step.kind, this.#kind.intent(view), attributes);
      this.#dispatch({ loop: loop.name, id, key, view, step, span, startMs: performance.now() });
    }
    context.with(passTrace.contextFor(this.#kind.intent(view)), () => this.#record(id, view));
  }

  /** What each loop would do with an object as it is viewed; nothing is dispatched. */
  planned(view: View): readonly { readonly loop: string; readonly step: Step }[] {
    return this.#kind.loops.flatMap((loop) => {
      const step = this.#stepOf(loop, view);
      return step === undefined ? [] : [{ loop: loop.name, step }];
    });
  }

  #stepOf(loop: Loop<View, Step>, view: View): Step | undefined {
    const step = loop.plan(view);
    if (step === undefined || !this.#kind.gaveUp(view)) return step;
    return this.#kind.changes(step.kind) ? undefined : step;
  }

  #dispatch(dispatched: Dispatched<View, Step>): void {
    const { loop, id, key, view, step, span } = dispatched;
    this.#inFlight.set(id, (this.#inFlight.get(id) ?? 0) + 1);
    const status = this.#status.get(loop);
    if (status !== undefined) status.steps += 1;
    const done = context
      .with(trace.setSpan(ROOT_CONTEXT, span), () => this.#kind.perform(view, step))
      .catch((error: unknown): StepResult => {
        this.#log.error({ err: error, loop, id, step: step.kind }, "step threw");
        return { kind: "retry", message: `${step.kind} failed inside the agent` };
      })
      .then((result) => {
        this.#busy.delete(key);
        this.#inFlight.set(id, (this.#inFlight.get(id) ?? 1) - 1);
        if (this.#inFlight.get(id) === 0) this.#inFlight.delete(id);
        if (result.kind === "ok") this.#succeeded(dispatched);
        else this.#onStepFailed(dispatched, result);
        this.#ended(dispatched, result);
        this.wake(id);
      });
    this.#busy.set(key, done);
  }

  #ended({ loop, step, span, startMs }: Dispatched<View, Step>, result: StepResult): void {
    const durationMs = performance.now() - startMs;
    this.#instruments.metrics.step({ loop, step: step.kind, result: result.kind, durationMs });
    span.setAttribute(ATTR.stepResult, result.kind);
    if (result.kind !== "ok") failed(span, result.message);
    endSpan(span);
  }

  #succeeded({ key, loop, id, step, span }: Dispatched<View, Step>): void {
    clearTimeout(this.#backoff.get(key)?.timer);
    this.#backoff.delete(key);
    const level = this.#kind.changes(step.kind) ? "info" : "debug";
    this.#log[level]({ loop, id, step: step.kind, ...traceIds(span) }, "step done");
  }

  #onStepFailed(
    dispatched: Dispatched<View, Step>,
    result: Exclude<StepResult, { kind: "ok" }>,
  ): void {
    const { loop, id, key, view, step, span } = dispatched;
    const attempt = (this.#backoff.get(key)?.attempt ?? 0) + 1;
    const spread = 0.75 + Math.random() / 2;
    const delayMs = Math.min(BACKOFF_FIRST_MS * 2 ** (attempt - 1), BACKOFF_LAST_MS) * spread;
    const untilMs = Date.now() + delayMs;
    clearTimeout(this.#backoff.get(key)?.timer);
    if (!this.#closed) {
      const timer = setTimeout(() => {
        // The clock may be a fraction of a millisecond behind the timer, and nobody wakes it again.
        backoff.untilMs = 0;
        this.wake(id);
      }, delayMs);
      timer.unref();
      const backoff: Backoff = { attempt, untilMs, timer };
      this.#backoff.set(key, backoff);
    }
    const status = this.#status.get(loop);
    if (status !== undefined) status.lastError = `${id}: ${result.message}`;
    const fatal = result.kind === "fatal";
    const facts = { loop, id, step: step.kind, attempt, ...traceIds(span) };
    this.#log[fatal ? "error" : "warn"]({ ...facts, reason: result.message }, "step failed");
    const failure = { message: result.message, attempt, nextTryTime: new Date(untilMs), fatal };
    if (!this.#kind.permits("record")) return;
    const written = context.with(trace.setSpan(ROOT_CONTEXT, span), () =>
      this.#kind.recordFailure(view, failure),
    );
    this.#track(id, written);
  }

  #record(id: string, view: View): void {
    // One record at a time per object: the next is computed from what this one has committed.
    if (this.#recording.has(id) || !this.#kind.permits("record")) return;
    const written = this.#kind.record(view);
    if (written !== undefined) this.#track(id, written);
  }

  #track(id: string, written: Promise<boolean>): void {
    this.#recording.add(id);
    written
      .catch((error: unknown) => this.#log.error({ err: error, id }, "status was not recorded"))
      .finally(() => {
        this.#recording.delete(id);
        this.wake(id);
      });
  }

  /** Plans nothing more and waits for the steps in flight, each within its own time limit. */
  async stop(signal: AbortSignal): Promise<void> {
    this.#closed = true;
    for (const { timer } of this.#backoff.values()) clearTimeout(timer);
    const aborted = new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    await Promise.race([Promise.all(this.#busy.values()), aborted]);
  }
}
