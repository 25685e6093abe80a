// Back-offs: when a step that failed is tried again. One rule for every loop: the delay doubles with each
// failure of the same step and part, no success of another step resets it, a new intent ends it, and it
// is kept in the object's row, so a restart of the agent does not begin anew.
import { BACKOFF_FIRST_MS, BACKOFF_LAST_MS, MAX_ERROR_BYTES } from "../../limits.ts";
import { cutText } from "../../cut-text.ts";
import type { StepFailure, StepFailures } from "../../model/failure.ts";

/** Milliseconds, from 75 % to 125 % of the doubled delay. attempt: failures in a row, at least 1. */
export function backoffMs(attempt: number, random: () => number = Math.random): number {
  const jitter = 0.75 + random() / 2;
  return Math.min(BACKOFF_FIRST_MS * 2 ** (attempt - 1), BACKOFF_LAST_MS) * jitter;
}

function nextTry(attempt: number): Date {
  return new Date(Date.now() + backoffMs(attempt));
}

type Entry = { readonly failure: StepFailure; due: boolean; readonly timer: NodeJS.Timeout };

const NONE: StepFailures = {};

export class Backoffs {
  readonly #wake: (id: string) => void;
  readonly #objects = new Map<string, Map<string, Entry>>();
  /** What #objects holds, as a value that is replaced when it changes. */
  readonly #failures = new Map<string, StepFailures>();
  readonly #seeded = new Set<string>();
  #closed = false;

  constructor(wake: (id: string) => void) {
    this.#wake = wake;
  }

  /** The present failures of an object; the same value until one of them changes. */
  of(id: string): StepFailures {
    return this.#failures.get(id) ?? NONE;
  }

  /**
   * Takes over what an earlier agent recorded. Only the first call for an object has an effect, if
   * there is anything to take over: true then.
   */
  seed(id: string, recorded: StepFailures): boolean {
    if (this.#seeded.has(id)) return false;
    this.#seeded.add(id);
    const entries = Object.entries(recorded);
    for (const [key, failure] of entries) this.#set(id, key, failure);
    return entries.length > 0;
  }

  /** Whether what was recorded of the object was taken over. */
  knows(id: string): boolean {
    return this.#seeded.has(id);
  }

  waits(id: string, key: string): boolean {
    return this.#objects.get(id)?.get(key)?.due === false;
  }

  /** Failures in a row of the step so far. */
  attempts(id: string, key: string): number {
    return this.#objects.get(id)?.get(key)?.failure.attempt ?? 0;
  }

  /** unanswered: the step was not sent, or its answer was lost. */
  fail(id: string, key: string, message: string, unanswered: boolean): StepFailure {
    const before = this.#objects.get(id)?.get(key);
    const suspect = before?.failure.crashTime === undefined ? undefined : before;
    if (suspect !== undefined && unanswered) {
      // It is a suspect as before. Blamed just now, it has its delay already.
      if (!suspect.due) return suspect.failure;
      const { attempt } = suspect.failure;
      return this.#put(id, key, { ...suspect.failure, nextTryTime: nextTry(attempt) });
    }
    const attempt = suspect === undefined ? this.attempts(id, key) + 1 : 1;
    return this.#put(id, key, {
      attempt,
      message,
      nextTryTime: nextTry(attempt),
      ...(unanswered ? { unanswered } : {}),
    });
  }

  /**
   * The step was in flight when the target died. Its failures count these deaths, and neither a new
   * intent nor a new connection ends its wait. message: of the count.
   */
  blame(
    id: string,
    key: string,
    crash: {
      readonly time: Date;
      readonly alone: boolean;
      readonly message: (count: number) => string;
    },
  ): StepFailure {
    const attempt = this.crashTime(id, key) === undefined ? 1 : this.attempts(id, key) + 1;
    const nextTryTime = crash.alone ? nextTry(attempt) : new Date();
    const message = crash.message(attempt);
    return this.#put(id, key, { attempt, message, nextTryTime, crashTime: crash.time });
  }

  failure(id: string, key: string): StepFailure | undefined {
    return this.#objects.get(id)?.get(key)?.failure;
  }

  /** Of the crash that the step is a suspect of; undefined: it is none. */
  crashTime(id: string, key: string): Date | undefined {
    return this.failure(id, key)?.crashTime;
  }

  /** Takes back what `blame` did. */
  restore(id: string, key: string, before: StepFailure | undefined): void {
    if (before === undefined) this.succeed(id, key);
    else this.#set(id, key, before);
  }

  /** Every step that is a suspect of a crash. */
  *suspects(): Generator<{
    readonly id: string;
    readonly key: string;
    readonly failure: StepFailure;
    readonly crashTime: Date;
  }> {
    for (const [id, entries] of this.#objects) {
      for (const [key, { failure }] of entries) {
        const { crashTime } = failure;
        if (crashTime !== undefined) yield { id, key, failure, crashTime };
      }
    }
  }

  succeed(id: string, key: string): void {
    const entries = this.#objects.get(id);
    const entry = entries?.get(key);
    if (entries === undefined || entry === undefined) return;
    clearTimeout(entry.timer);
    entries.delete(key);
    this.#publish(id, entries);
  }

  /** Forgets the failures of an object, as its intent is new: all but those that killed the target. */
  clear(id: string): void {
    this.#seeded.add(id);
    const entries = this.#objects.get(id);
    if (entries === undefined) return;
    for (const [key, { timer, failure }] of entries) {
      if (failure.crashTime !== undefined) continue;
      clearTimeout(timer);
      entries.delete(key);
    }
    this.#publish(id, entries);
  }

  /** Ends the waits of all objects and wakes them; how often each step failed is not forgotten. */
  endWaits(): void {
    for (const id of this.#objects.keys()) this.endWaitsOf(id);
  }

  endWaitsOf(id: string): void {
    for (const entry of this.#objects.get(id)?.values() ?? []) {
      if (entry.failure.crashTime !== undefined) continue;
      clearTimeout(entry.timer);
      entry.due = true;
    }
    this.#wake(id);
  }

  close(): void {
    this.#closed = true;
    for (const entries of this.#objects.values()) {
      for (const { timer } of entries.values()) clearTimeout(timer);
    }
  }

  #put(id: string, key: string, failure: StepFailure): StepFailure {
    this.#seeded.add(id);
    // What the target or the kernel says stands in rows, answers and events.
    const kept = { ...failure, message: cutText(failure.message, MAX_ERROR_BYTES) };
    this.#set(id, key, kept);
    return kept;
  }

  #set(id: string, key: string, failure: StepFailure): void {
    const entries = this.#objects.get(id) ?? new Map<string, Entry>();
    this.#objects.set(id, entries);
    clearTimeout(entries.get(key)?.timer);
    const delayMs = Math.max(0, failure.nextTryTime.getTime() - Date.now());
    const timer = setTimeout(() => {
      entry.due = true;
      if (!this.#closed) this.#wake(id);
    }, delayMs);
    timer.unref();
    const entry: Entry = { failure, due: false, timer };
    entries.set(key, entry);
    this.#publish(id, entries);
  }

  #publish(id: string, entries: ReadonlyMap<string, Entry>): void {
    if (entries.size === 0) {
      this.#objects.delete(id);
      this.#failures.delete(id);
      return;
    }
    const failures = [...entries].map(([key, { failure }]) => [key, failure] as const);
    this.#failures.set(id, Object.fromEntries(failures));
  }
}
