// Wakes objects at a time, although nothing else does: at most one time each.

export class WakeTimes {
  readonly #wake: (id: string) => void;
  readonly #timers = new Map<string, NodeJS.Timeout>();
  #closed = false;

  constructor(wake: (id: string) => void) {
    this.#wake = wake;
  }

  /** Replaces the time of the object; undefined: none. */
  set(id: string, time: Date | undefined): void {
    clearTimeout(this.#timers.get(id));
    this.#timers.delete(id);
    if (time === undefined || this.#closed) return;
    const timer = setTimeout(() => this.#wake(id), Math.max(1, time.getTime() - Date.now()));
    this.#timers.set(id, timer.unref());
  }

  close(): void {
    this.#closed = true;
    for (const timer of this.#timers.values()) clearTimeout(timer);
  }
}
