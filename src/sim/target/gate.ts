// Fault injection for tests: counts requests, stops the target at one, drops or delays an answer,
// delays an effect, answers with an error. The target consults it before it starts a request and before it answers one.

import { mentions, type JsonValue } from "./json.ts";

/** Names the write of a host that copies a cluster on write, where requests are named. */
const HOST_WRITE = "host_write";

/** Which requests are meant. */
export type Which = {
  /** Default: any. */
  readonly method?: string | undefined;
  /** A string that the params hold somewhere: an NQN, the NQN of a host, the uuid of an lvol. */
  readonly with?: string | undefined;
  /** The n-th matching request from now on; 1 is the next. */
  readonly nth: number;
};

export type StopAt = Which & {
  /**
   * `before`: the request has no effect yet; `after`: its effect is done, its answer unsent;
   * `midway`: a delete has freed the clusters and has not cleared them, an attach has not loaded
   * the store, a host's write (`host_write`) has copied a cluster that no metadata names yet.
   */
  readonly when: "before" | "midway" | "after";
};

/** `half`: a delete that takes the bdev away and leaves the lvol on the disk. */
export type Failure = { readonly code: number; readonly message: string; readonly half: boolean };

export type Rule = Which & {
  /** `fail`: answered with `failure` and without effect. */
  readonly effect: "drop" | "delay" | "slow" | "fail";
  /** Polls, or milliseconds, that a delayed answer or the effect of a slow request waits. */
  readonly polls?: number | undefined;
  readonly ms?: number | undefined;
  readonly failure?: Failure | undefined;
  /** From the n-th on, every matching request. */
  readonly always?: boolean | undefined;
};

type Counted = Which & { remaining: number };

/** Polls and milliseconds, whichever is longer. */
export type Wait = { readonly polls: number; readonly ms: number };

/** How the effect and the answer of one request are handled. */
export type Disposition = {
  readonly stopHalfDone: boolean;
  readonly stopAfter: boolean;
  readonly drop: boolean;
  readonly delay: Wait;
  readonly slow: Wait;
  readonly failure: Failure | undefined;
};

const NO_WAIT: Wait = { polls: 0, ms: 0 };

export class Gate {
  #counts = new Map<string, number>();
  #stop: (StopAt & Counted) | undefined;
  #rules: (Rule & Counted)[] = [];
  /** Called when the target has stopped at a request; undefined: no listener. */
  onStopped: ((method: string) => void) | undefined;
  /** While set, the target starts and completes no request. */
  stopped = false;

  get counts(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#counts);
  }

  resetCounts(): void {
    this.#counts = new Map();
  }

  stopAt(stop: StopAt): void {
    this.#stop = { ...stop, remaining: stop.nth };
  }

  addRule(rule: Rule): void {
    this.#rules.push({ ...rule, remaining: rule.nth });
  }

  stop(method: string): void {
    this.stopped = true;
    this.onStopped?.(method);
  }

  /** Forgets all rules and the stop. */
  clear(): void {
    this.#rules = [];
    this.#stop = undefined;
  }

  /**
   * Whether the target stops before this request. The stop is used up: the next call returns false.
   */
  stopsBefore(method: string, params: JsonValue | undefined): boolean {
    const stop = this.#stop;
    if (stop?.when !== "before" || !countDown(stop, method, params)) return false;
    this.#stop = undefined;
    this.stop(method);
    return true;
  }

  /** Whether the target stops in the middle of a host's write: the copy of a cluster is on the disk. */
  stopsAtCopy(): boolean {
    const stop = this.#stop;
    if (stop?.when !== "midway" || stop.method !== HOST_WRITE) return false;
    if (!countDown(stop, HOST_WRITE, undefined)) return false;
    this.#stop = undefined;
    this.stop(HOST_WRITE);
    return true;
  }

  /**
   * Counts a request that starts and returns how it is handled. A request without params is counted
   * as `method()`: for list methods that is a full list.
   */
  begins(method: string, params: JsonValue | undefined): Disposition {
    const counted = params === undefined ? `${method}()` : method;
    this.#counts.set(counted, (this.#counts.get(counted) ?? 0) + 1);
    const stop = this.#stop;
    const stops = stop !== undefined && stop.when !== "before" && countDown(stop, method, params);
    if (stops) this.#stop = undefined;
    const met = this.#rules.filter((rule) => countDown(rule, method, params));
    this.#rules = this.#rules.filter((rule) => rule.always === true || !met.includes(rule));
    const at = stops ? stop.when : undefined;
    return {
      stopHalfDone: at === "midway",
      stopAfter: at === "after",
      drop: met.some(({ effect }) => effect === "drop"),
      delay: waitOf(met, "delay"),
      slow: waitOf(met, "slow"),
      failure: met.find(({ effect }) => effect === "fail")?.failure,
    };
  }
}

function waitOf(rules: readonly Rule[], effect: "delay" | "slow"): Wait {
  return rules
    .filter((rule) => rule.effect === effect)
    .reduce(
      ({ polls, ms }, rule) => ({ polls: polls + (rule.polls ?? 0), ms: ms + (rule.ms ?? 0) }),
      NO_WAIT,
    );
}

/** Counts down for each matching request; true for the n-th one and for all after it. */
function countDown(counted: Counted, method: string, params: JsonValue | undefined): boolean {
  if (counted.method !== undefined && counted.method !== method) return false;
  if (counted.with !== undefined && !mentions(params, counted.with)) return false;
  counted.remaining -= 1;
  return counted.remaining <= 0;
}
