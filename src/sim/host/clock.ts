// Time of simulated hosts: the real one, or one that a test moves forward by itself.

export type Clock = {
  /** Milliseconds since an arbitrary moment. */
  readonly now: () => number;
  /** Calls `act` once after `ms`; the result cancels it. */
  readonly after: (ms: number, act: () => void) => () => void;
};

export const realClock: Clock = {
  now: () => performance.now(),
  after: (ms, act) => {
    const timer = setTimeout(act, ms);
    return () => clearTimeout(timer);
  },
};

type Timer = { readonly at: number; readonly act: () => void };

/** Time stands still except during `advance`. */
export class ManualClock implements Clock {
  #now = 0;
  #timers: Timer[] = [];

  readonly now = (): number => this.#now;

  readonly after = (ms: number, act: () => void): (() => void) => {
    const timer = { at: this.#now + ms, act };
    this.#timers.push(timer);
    return () => (this.#timers = this.#timers.filter((one) => one !== timer));
  };

  /** Runs the timers of the next `ms`, and whatever they start, in the order of their moments. */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms;
    await idle();
    for (;;) {
      const [next] = this.#timers.filter(({ at }) => at <= end).toSorted((a, b) => a.at - b.at);
      if (next === undefined) break;
      this.#timers = this.#timers.filter((one) => one !== next);
      this.#now = Math.max(this.#now, next.at);
      next.act();
      await idle();
    }
    this.#now = end;
  }
}

/** Lets all promises that are settled already run their continuations. */
async function idle(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}
