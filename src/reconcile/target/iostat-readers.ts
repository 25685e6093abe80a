// The readers of the loop iostat: whose frame is due at a tick. Readers with the same filter get the
// same frame. Ticks are as far apart as the shortest interval of all; a reader with another interval
// gets the first sample at which that has passed, so its interval is rounded up to whole ticks.
import type { IostatFilter, IostatFrame, IostatReader } from "../../model/iostat.ts";

/** Readers with one filter that are due. */
export type DueGroup = {
  readonly filter: IostatFilter;
  readonly deliver: (frame: IostatFrame, tickMs: number) => void;
};

type Waiting = { readonly reader: IostatReader; dueMs: number };
type Group = { readonly filter: IostatFilter; readonly waiting: Set<Waiting> };

/** Ticks are computed from each other, with the rounding of binary fractions. */
const SLACK_MS = 0.5;

export class IostatReaders {
  readonly #groups = new Map<string, Group>();
  /** How many readers have each interval. */
  readonly #intervals = new Map<number, number>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** The shortest interval of all readers; Infinity without any. */
  get shortestMs(): number {
    return Math.min(...this.#intervals.keys());
  }

  /** Returns the function that removes the reader. */
  add(reader: IostatReader): () => void {
    const key = JSON.stringify(reader.filter);
    const group = this.#groups.get(key) ?? { filter: reader.filter, waiting: new Set() };
    const waiting = { reader, dueMs: Number.NEGATIVE_INFINITY };
    this.#groups.set(key, group);
    group.waiting.add(waiting);
    this.#count(reader.intervalMs, 1);
    return () => {
      if (!group.waiting.delete(waiting)) return;
      if (group.waiting.size === 0) this.#groups.delete(key);
      this.#count(reader.intervalMs, -1);
    };
  }

  /** The groups with readers whose frame is due at a tick. */
  due(tickMs: number): readonly DueGroup[] {
    return [...this.#groups.values()].flatMap(({ filter, waiting }) => {
      const due = [...waiting].filter(({ dueMs }) => dueMs <= tickMs + SLACK_MS);
      if (due.length === 0) return [];
      return { filter, deliver: (frame, at) => deliver(due, waiting, frame, at) };
    });
  }

  #count(intervalMs: number, by: 1 | -1): void {
    const count = (this.#intervals.get(intervalMs) ?? 0) + by;
    if (count === 0) this.#intervals.delete(intervalMs);
    else this.#intervals.set(intervalMs, count);
    this.#size += by;
  }
}

function deliver(
  due: readonly Waiting[],
  present: ReadonlySet<Waiting>,
  frame: IostatFrame,
  tickMs: number,
): void {
  for (const one of due) {
    one.dueMs = tickMs + one.reader.intervalMs;
    // It may have ended while the target was asked.
    if (present.has(one)) one.reader.onFrame(frame);
  }
}
