// Which steps may have killed the target. What was dispatched and not answered when the target died is
// suspected of that crash, over restarts of both sides, until it is answered
// (docs/architecture.md#r16-crash-suspects).
//
// After a restart everything else goes first. Once nothing else is to be done, half of the suspects of one
// crash are let go: if the target dies again, one of them did it and the others are acquitted. What is left
// alone waits longer after each crash, and the rest of the node works meanwhile.
import type { Logger } from "pino";
import { SUSPECTS_WAIT_MS } from "../../limits.ts";
import type { StepFailure } from "../../model/failure.ts";
import type { Backoffs } from "./backoff.ts";

/** A driver, as far as suspects need it. */
export type Steps = {
  /** The kind of its objects. */
  readonly name: string;
  readonly backoffs: Backoffs;
  /** Whether nothing waits to be planned and nothing is in flight. */
  readonly idle: () => boolean;
  readonly wake: (id: string) => void;
};

/** A step of one object, by the key of its back-off. sends: the change that it sends to the target. */
export type Sent = {
  readonly steps: Steps;
  readonly id: string;
  readonly key: string;
  readonly sends: string;
};

export type Suspect = {
  readonly over: string;
  readonly id: string;
  readonly failure: StepFailure;
  readonly state: SuspectState;
};

/**
 * - waiting: until everything else is done, or the other half was tried.
 * - tried: let go, and not answered yet.
 * - convicted: the only suspect left of a crash; it waits for its next try.
 */
export const SUSPECT_STATES = ["waiting", "tried", "convicted"] as const;

export type SuspectState = (typeof SUSPECT_STATES)[number];

type Blamed = { readonly sent: Sent; readonly before: StepFailure | undefined };

/** Suspects that one line of the log names. */
const MAX_NAMED = 10;

export class Suspects {
  readonly #log: Logger;
  readonly #all: Steps[] = [];
  readonly #inFlight = new Map<string, Sent>();
  /** Steps that are wanted now and were not let go, by the id of their object. */
  readonly #asking = new Map<string, Sent[]>();
  readonly #released = new Set<string>();
  /** Blamed when the connection was lost: it is not known yet whether the target died. */
  #unproven: Blamed[] = [];
  #lastCrashMs = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(log: Logger) {
    this.#log = log;
  }

  join(steps: Steps): void {
    this.#all.push(steps);
  }

  /** An object is planned anew: what it asked for before counts no more. */
  planning(id: string): void {
    this.#asking.delete(id);
  }

  /** Whether the step may be dispatched now; if not, its object is woken once it may. */
  mayGo(sent: Sent): boolean {
    const { steps, id, key } = sent;
    if (steps.backoffs.crashTime(id, key) === undefined) return true;
    if (this.#released.has(nameOf(sent))) return true;
    const asking = this.#asking.get(id) ?? [];
    this.#asking.set(id, [...asking, sent]);
    this.#timer ??= setTimeout(() => this.#release(), SUSPECTS_WAIT_MS).unref();
    return false;
  }

  began(sent: Sent): void {
    this.#inFlight.set(nameOf(sent), sent);
  }

  /** A step has ended. One whose answer was lost may be running still. */
  ended(sent: Sent, unanswered: "not-sent" | "lost" | undefined): void {
    const name = nameOf(sent);
    if (unanswered !== "lost") this.#inFlight.delete(name);
    if (unanswered === undefined) this.#released.delete(name);
  }

  /** A driver has made a pass: if all are done with everything else, some suspects are let go. */
  passed(): void {
    if (this.#asking.size > 0 && this.#all.every(({ idle }) => idle())) this.#release();
  }

  /** The connection was lost. Called before any step in flight learns of it. */
  disconnected(): void {
    const inFlight = [...this.#inFlight.values()];
    this.#inFlight.clear();
    this.#released.clear();
    this.#asking.clear();
    const known = inFlight.filter(({ steps, id, key }) => steps.backoffs.crashTime(id, key));
    const blamed = known.length > 0 ? known : inFlight;
    // It names the crash: never the time of another one.
    this.#lastCrashMs = Math.max(Date.now(), this.#lastCrashMs + 1);
    const time = new Date(this.#lastCrashMs);
    for (const sent of blamed) {
      const { steps, id, key } = sent;
      this.#unproven.push({ sent, before: steps.backoffs.failure(id, key) });
      const message = (count: number) => textOf(sent, { count, others: blamed.length - 1, time });
      steps.backoffs.blame(id, key, { time, alone: blamed.length === 1, message });
    }
    for (const { steps, id } of blamed) steps.wake(id);
  }

  /** A target answers again: another process than before, or the same one, which did not die. */
  identified({ restarted }: { readonly restarted: boolean }): void {
    const blamed = this.#unproven;
    this.#unproven = [];
    if (blamed.length === 0) return;
    if (!restarted) {
      for (const { sent, before } of blamed.toReversed()) {
        sent.steps.backoffs.restore(sent.id, sent.key, before);
        sent.steps.wake(sent.id);
      }
      return;
    }
    this.#acquit(new Set(blamed.flatMap(({ before }) => before?.crashTime?.getTime() ?? [])));
    const suspects = blamed.slice(0, MAX_NAMED).map(({ sent: { steps, id, key } }) => {
      const { message, nextTryTime } = steps.backoffs.failure(id, key) ?? {};
      return { over: steps.name, id, step: key, message, next_try: nextTryTime };
    });
    this.#log.error(
      { suspects, count: blamed.length },
      blamed.length === 1
        ? "SPDK target died while one change was in flight, which waits now"
        : "SPDK target died while changes were in flight, which wait for all others now",
    );
  }

  list(): readonly Suspect[] {
    const sizes = new Map<number, number>();
    const suspects = this.#all.flatMap((steps) =>
      [...steps.backoffs.suspects()].map((suspect) => ({ ...suspect, steps })),
    );
    for (const { crashTime } of suspects) {
      sizes.set(crashTime.getTime(), (sizes.get(crashTime.getTime()) ?? 0) + 1);
    }
    return suspects.map(({ steps, id, key, failure, crashTime }) => {
      const alone = sizes.get(crashTime.getTime()) === 1;
      const tried = this.#released.has(`${id} ${key}`);
      const state = tried ? "tried" : alone ? "convicted" : "waiting";
      return { over: steps.name, id, failure, state };
    });
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  /** The target died of other suspects of these crashes. */
  #acquit(crashes: ReadonlySet<number>): void {
    for (const { backoffs, wake } of this.#all) {
      for (const { id, key, crashTime } of backoffs.suspects()) {
        if (!crashes.has(crashTime.getTime())) continue;
        backoffs.succeed(id, key);
        wake(id);
      }
    }
  }

  /** Lets half of the largest group go: the suspects of one crash, so that each crash narrows one down. */
  #release(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#released.clear();
    const groups = Map.groupBy([...this.#asking.values()].flat(), ({ steps, id, key }) =>
      steps.backoffs.crashTime(id, key)?.getTime(),
    );
    const [largest = []] = [...groups.values()].toSorted((a, b) => b.length - a.length);
    const half = largest.slice(0, Math.ceil(largest.length / 2));
    for (const sent of half) this.#released.add(nameOf(sent));
    for (const { steps, id } of half) steps.wake(id);
  }
}

function nameOf({ id, key }: Sent): string {
  return `${id} ${key}`;
}

function textOf(
  { sends }: Sent,
  crash: { readonly count: number; readonly others: number; readonly time: Date },
): string {
  const { count, others, time } = crash;
  const times = count === 1 ? "once" : `${count} times`;
  const beside = others === 0 ? "alone" : `beside ${others} other change(s)`;
  return `${sends} was in flight when the target died, ${times}, last at ${time.toISOString()} ${beside}`;
}
