// What tests do to a target from outside: count what it reads, stop it at a request, keep an answer
// back, answer late, act late. The target asks here before it starts a request and before it answers one.

export type StopAt = {
  /**
   * Before the request has any effect, after it with the answer unsent, or midway: a delete has freed
   * the clusters and has not cleared them.
   */
  readonly when: "before" | "midway" | "after";
  readonly method?: string | undefined;
  /** The n-th matching request from now on; 1 is the next. */
  readonly nth: number;
};

export type Rule = {
  readonly effect: "drop" | "delay" | "slow";
  readonly method?: string | undefined;
  readonly nth: number;
  /** How long a delayed answer waits, or the effect of a slow request. */
  readonly polls?: number | undefined;
};

type Counted = { readonly method?: string | undefined; left: number };

/** What happens to the answer of one request. */
export type Disposition = {
  readonly stopHalfDone: boolean;
  readonly stopAfter: boolean;
  readonly drop: boolean;
  readonly delayPolls: number;
  readonly slowPolls: number;
};

const PLAIN: Disposition = {
  stopHalfDone: false,
  stopAfter: false,
  drop: false,
  delayPolls: 0,
  slowPolls: 0,
};

export class Gate {
  #counts = new Map<string, number>();
  #stop: (StopAt & Counted) | undefined;
  #rules: (Rule & Counted)[] = [];
  /** Called when the target stands still; undefined while nobody watches. */
  onStopped: ((method: string) => void) | undefined;
  /** The target starts and ends nothing while this is set. */
  stopped = false;

  get counts(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#counts);
  }

  resetCounts(): void {
    this.#counts = new Map();
  }

  stopAt(stop: StopAt): void {
    this.#stop = { ...stop, left: stop.nth };
  }

  addRule(rule: Rule): void {
    this.#rules.push({ ...rule, left: rule.nth });
  }

  stop(method: string): void {
    this.stopped = true;
    this.onStopped?.(method);
  }

  /** Whether the target stops here, before this request; asked again afterwards, it goes on. */
  stopsBefore(method: string): boolean {
    const stop = this.#stop;
    if (stop?.when !== "before" || !counts(stop, method)) return false;
    this.#stop = undefined;
    this.stop(method);
    return true;
  }

  /**
   * Takes note of a request that starts, and says what becomes of its answer. One without params is
   * counted as `method()`: of the lists, that is the whole of them.
   */
  begins(method: string, hasParams: boolean): Disposition {
    const counted = hasParams ? method : `${method}()`;
    this.#counts.set(counted, (this.#counts.get(counted) ?? 0) + 1);
    let { drop, delayPolls, slowPolls } = PLAIN;
    const stop = this.#stop;
    const stops = stop !== undefined && stop.when !== "before" && counts(stop, method);
    if (stops) this.#stop = undefined;
    for (const rule of this.#rules) {
      if (!counts(rule, method)) continue;
      this.#rules = this.#rules.filter((one) => one !== rule);
      if (rule.effect === "drop") drop = true;
      else if (rule.effect === "delay") delayPolls += rule.polls ?? 0;
      else slowPolls += rule.polls ?? 0;
    }
    const at = stops ? stop.when : undefined;
    return {
      stopHalfDone: at === "midway",
      stopAfter: at === "after",
      drop,
      delayPolls,
      slowPolls,
    };
  }
}

/** Counts a request down; true for the one that was meant. */
function counts(counted: Counted, method: string): boolean {
  if (counted.method !== undefined && counted.method !== method) return false;
  counted.left -= 1;
  return counted.left === 0;
}
