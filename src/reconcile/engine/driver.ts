// The driver runs the loops of one kind of object. It plans objects that were woken in the next
// turn of the event loop, dispatches each loop's step to its lanes, and plans the object again when
// the step is answered. It does not poll: an object that is not woken costs nothing.
//
// It never depends on volumes or disks: everything specific to a kind of object is in its `Kind`.
import { context, ROOT_CONTEXT, trace } from "@opentelemetry/api";
import type { Logger } from "pino";
import { ATTR } from "../../telemetry/attributes.ts";
import type { Instruments } from "../../telemetry/instruments.ts";
import { endSpan, failed, traceIds } from "../../telemetry/trace.ts";
import {
  keyOf,
  listOf,
  unansweredOf,
  type FailedPart,
  type Kind,
  type Loop,
  type LoopStatus,
  type StepResult,
} from "./kind.ts";
import { LoopStatuses } from "./loop-statuses.ts";
import { InFlight } from "./in-flight.ts";
import { PassTrace } from "./pass-trace.ts";
import { PASS_OBJECTS } from "../../limits.ts";
import type { StepFailures } from "../../model/failure.ts";
import { Backoffs } from "./backoff.ts";
import type { Dispatched } from "./dispatched.ts";
import type { Steps, Suspects } from "./suspects.ts";
import { WakeTimes } from "./wake-times.ts";

export class Driver<View, Step extends { readonly kind: string }> {
  readonly #kind: Kind<View, Step>;
  readonly #log: Logger;
  readonly #instruments: Instruments;
  /** Ids of objects to be planned, in the order they were woken. */
  readonly #dirty = new Set<string>();
  /** As #dirty, for objects that are planned first. */
  readonly #urgent = new Set<string>();
  readonly #inFlight = new InFlight();
  readonly #recording = new Set<string>();
  readonly #generations = new Map<string, bigint>();
  readonly #backoffs = new Backoffs((id) => this.wake(id));
  readonly #suspects: Suspects;
  readonly #steps: Steps;
  readonly #status: LoopStatuses;
  readonly #wakeTimes = new WakeTimes((id) => this.wake(id));
  #scheduled = false;
  #paused = true;
  #closed = false;

  constructor(kind: Kind<View, Step>, log: Logger, instruments: Instruments, suspects: Suspects) {
    this.#kind = kind;
    this.#suspects = suspects;
    this.#steps = {
      name: kind.name,
      backoffs: this.#backoffs,
      idle: () => this.idle,
      wake: (id) => this.wake(id),
    };
    suspects.join(this.#steps);
    this.#log = log.child({ over: kind.name });
    this.#instruments = instruments;
    this.#status = new LoopStatuses(kind.loops);
  }

  get status(): readonly LoopStatus[] {
    return this.#status.all;
  }

  /** Whether nothing waits to be planned and no step or record is in flight. */
  get idle(): boolean {
    return this.#waiting === 0 && this.#inFlight.size === 0 && this.#recording.size === 0;
  }

  /** Starts planning, beginning with the objects woken so far. */
  start(): void {
    this.#paused = false;
    this.#schedule();
  }

  /** Requests that the object is planned. */
  wake(id: string): void {
    const urgent = this.#kind.first?.(id) === true;
    (urgent ? this.#urgent : this.#dirty).add(id);
    this.#schedule();
  }

  /** Clears the back-offs of an object and wakes it, e.g. after a new intent. */
  retryNow(id: string): void {
    this.#backoffs.clear(id);
    this.wake(id);
  }

  /**
   * Wakes an object whose row changed. Clears its back-offs if the generation (its intent) changed.
   */
  retryIfIntentChanged(id: string, generation: bigint | undefined): void {
    const before = this.#generations.get(id);
    if (generation === undefined) this.#generations.delete(id);
    else this.#generations.set(id, generation);
    // A row that is seen for the first time brings the failures that an earlier agent recorded.
    if (before !== undefined && generation !== undefined && before !== generation) {
      this.retryNow(id);
    } else {
      this.wake(id);
    }
  }

  /** The present failures of an object's steps; before its first pass those that were recorded. */
  failures(id: string, recorded: StepFailures): StepFailures {
    return this.#backoffs.knows(id) ? this.#backoffs.of(id) : recorded;
  }

  /** Whether a step on this object was dispatched and is not answered yet. */
  inFlight(id: string): boolean {
    return this.#inFlight.has(id);
  }

  /** Ends the waits of all back-offs, e.g. when the target is back; they go on growing. */
  retryAllNow(): void {
    this.#backoffs.endWaits();
  }

  /** As retryAllNow, for one object. */
  retrySoon(id: string): void {
    this.#backoffs.endWaitsOf(id);
  }

  #schedule(): void {
    if (this.#scheduled || this.#paused || this.#closed || this.#waiting === 0) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      // Detach from the waker's trace context: each step is traced under its own intent.
      context.with(ROOT_CONTEXT, () => this.#pass());
    });
  }

  #pass(): void {
    if (this.#closed) return;
    const started = performance.now();
    const now = new Date();
    // A pass plans a limited number of objects and leaves the rest to the next turn of the event
    // loop, so that a thousand plans do not delay answers, commits and API calls, and the target
    // receives the first steps while later objects are still being planned.
    const ids = this.#nextIds();
    const passTrace = new PassTrace(this.#instruments.tracer, this.#kind.name, ids.length);
    for (const id of ids) this.#planObject(id, now, passTrace);
    passTrace.end();
    for (const { name } of this.#kind.loops) this.#instruments.metrics.pass(name);
    this.#status.passed(now, performance.now() - started);
    this.#suspects.passed();
    this.#schedule();
  }

  get #waiting(): number {
    return this.#urgent.size + this.#dirty.size;
  }

  /** Removes and returns the ids for the next pass, urgent ones first. */
  #nextIds(): readonly string[] {
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
    this.#suspects.planning(id);
    const view = this.#viewOf(id, now);
    if (view === undefined) return;
    const planned = this.#kind.loops.flatMap((loop) => this.#stepsOf(loop, view));
    for (const { loop, step, key } of planned) {
      if (this.#mustWait(loop, id, { step, key }) || !this.#kind.permits(step.kind)) continue;
      const sends = this.#kind.sends(step.kind);
      const sent = sends === undefined ? undefined : { steps: this.#steps, id, key, sends };
      if (sent !== undefined && !this.#suspects.mayGo(sent)) continue;
      const attributes = {
        [ATTR.objectKind]: this.#kind.name,
        [ATTR.objectId]: id,
        [ATTR.loop]: loop,
        [ATTR.step]: step.kind,
        [ATTR.attempt]: this.#backoffs.attempts(id, key) + 1,
      };
      const span = passTrace.step(step.kind, this.#kind.intent(view), attributes);
      this.#dispatch({ loop, id, key, view, step, sent, span, startMs: performance.now() });
    }
    this.#forgetUnwanted(id, view, planned);
    this.#wakeTimes.set(id, this.#kind.wakeTime(view));
    const current = this.#viewOf(id, now) ?? view;
    context.with(passTrace.contextFor(this.#kind.intent(view)), () => this.#record(id, current));
  }

  #viewOf(id: string, now: Date): View | undefined {
    const moment = () => ({ now, inFlight: this.inFlight(id), failures: this.#backoffs.of(id) });
    const view = this.#kind.view(id, moment());
    if (view === undefined || !this.#backoffs.seed(id, this.#kind.recordedFailures(view))) {
      return view;
    }
    return this.#kind.view(id, moment());
  }

  /** Failures of steps that no loop plans any more, e.g. of a host that is not wanted any more. */
  #forgetUnwanted(id: string, view: View, planned: readonly { readonly key: string }[]): void {
    const failures = Object.keys(this.#backoffs.of(id));
    if (failures.length === 0) return;
    const wanted = new Set(planned.map(({ key }) => key));
    for (const key of failures) {
      const [loop = ""] = key.split("/");
      if (!wanted.has(key) && this.#kind.outlives(view, loop)) this.#backoffs.succeed(id, key);
    }
  }

  /** Whether a back-off, or a step of the same loop on the same object, is in the way. */
  #mustWait(
    loop: string,
    id: string,
    next: { readonly step: Step; readonly key: string },
  ): boolean {
    if (this.#backoffs.waits(id, next.key)) return true;
    const alone = this.#kind.part(next.step) === undefined;
    return this.#inFlight.blocks(loop, id, { key: next.key, alone });
  }

  /** The steps that the loops plan for a view; nothing is dispatched. */
  planned(view: View): readonly { readonly loop: string; readonly step: Step }[] {
    return this.#kind.loops.flatMap((loop) => this.#stepsOf(loop, view));
  }

  #stepsOf({ name: loop, plan }: Loop<View, Step>, view: View) {
    const steps = listOf(plan(view) ?? []);
    const gaveUp = steps.length > 0 && this.#kind.gaveUp(view);
    const { changes, part } = this.#kind;
    return steps
      .filter(({ kind }) => !gaveUp || !changes(kind))
      .map((step) => ({ loop, step, key: keyOf(loop, step.kind, part(step)) }));
  }

  #dispatch(dispatched: Dispatched<View, Step>): void {
    const { loop, id, key, view, step, sent, span } = dispatched;
    this.#inFlight.begin(id);
    if (sent !== undefined) this.#suspects.began(sent);
    this.#status.dispatched(loop);
    const done = context
      .with(trace.setSpan(ROOT_CONTEXT, span), () => this.#kind.perform(view, step))
      .catch((error: unknown): StepResult => {
        this.#log.error(
          { err: error, loop, id, step: step.kind },
          "step threw an unexpected error",
        );
        return {
          kind: "retry",
          message: `internal error of the agent in ${step.kind}; its log has the details`,
        };
      })
      .then((result) => {
        this.#inFlight.end(loop, id, key);
        if (sent !== undefined) this.#suspects.ended(sent, unansweredOf(result));
        if (result.kind === "ok") this.#succeeded(dispatched, result.failedParts ?? []);
        else this.#onStepFailed(dispatched, result);
        this.#endSpan(dispatched, result);
        this.wake(id);
      });
    this.#inFlight.add(loop, id, key, { done, alone: this.#kind.part(step) === undefined });
  }

  #endSpan({ loop, step, span, startMs }: Dispatched<View, Step>, result: StepResult): void {
    const durationMs = performance.now() - startMs;
    this.#instruments.metrics.step({ loop, step: step.kind, result: result.kind, durationMs });
    span.setAttribute(ATTR.stepResult, result.kind);
    if (result.kind !== "ok") failed(span, result.message);
    endSpan(span);
  }

  #succeeded(dispatched: Dispatched<View, Step>, failed: readonly FailedPart[]): void {
    const { key, loop, id, step, span } = dispatched;
    this.#backoffs.succeed(id, key);
    for (const { step: kind, part, message } of failed) {
      this.#failed(dispatched, keyOf(loop, kind, part), message);
    }
    const level = this.#kind.changes(step.kind) ? "info" : "debug";
    this.#log[level]({ loop, id, step: step.kind, ...traceIds(span) }, "step done");
  }

  #onStepFailed(
    dispatched: Dispatched<View, Step>,
    result: Exclude<StepResult, { kind: "ok" }>,
  ): void {
    const { id, key, view, span } = dispatched;
    const { kind, message } = result;
    const unanswered = unansweredOf(result) !== undefined;
    if (kind === "retry") return this.#failed(dispatched, key, message, unanswered);
    this.#logFailure(dispatched, message, { level: "error" });
    const failure = { id, step: key, before: "", message, unanswered, ...traceIds(span) };
    this.#kind.failed?.({ kind: "fatal", ...failure });
    if (!this.#kind.permits("record")) return this.#failed(dispatched, key, message);
    const written = context.with(trace.setSpan(ROOT_CONTEXT, span), () =>
      this.#kind.recordFatal(view, message),
    );
    this.#whileRecording(id, written);
  }

  #failed(
    dispatched: Dispatched<View, Step>,
    key: string,
    message: string,
    unanswered = false,
  ): void {
    const { id, span } = dispatched;
    const before = this.#backoffs.failure(id, key)?.message ?? "";
    const failure = { id, step: key, before, message, unanswered, ...traceIds(span) };
    this.#kind.failed?.({ kind: "retry", ...failure });
    const { attempt } = this.#backoffs.fail(id, key, message, unanswered);
    this.#logFailure(dispatched, message, { level: "warn", attempt });
  }

  #logFailure(
    { loop, id, step, span }: Dispatched<View, Step>,
    reason: string,
    { level, attempt }: { readonly level: "warn" | "error"; readonly attempt?: number },
  ): void {
    this.#status.failed(loop, `${id}: ${reason}`);
    const fields = { loop, id, step: step.kind, attempt, ...traceIds(span), reason };
    this.#log[level](fields, "step failed");
  }

  #record(id: string, view: View): void {
    // One record at a time per object: the next one is computed from the row that this one commits.
    if (this.#recording.has(id) || !this.#kind.permits("record")) return;
    const written = this.#kind.record(view);
    if (written !== undefined) this.#whileRecording(id, written);
  }

  #whileRecording(id: string, written: Promise<boolean>): void {
    this.#recording.add(id);
    written
      .catch((error: unknown) => this.#log.error({ err: error, id }, "cannot record status"))
      .finally(() => {
        this.#recording.delete(id);
        this.wake(id);
      });
  }

  /** Stops planning and waits for the steps in flight, or until the signal aborts. */
  async stop(signal: AbortSignal): Promise<void> {
    this.#closed = true;
    this.#backoffs.close();
    this.#wakeTimes.close();
    const aborted = new Promise<void>((resolve) => {
      if (signal.aborted) resolve();
      signal.addEventListener("abort", () => resolve(), { once: true });
    });
    await Promise.race([this.#inFlight.ended(), aborted]);
  }
}
