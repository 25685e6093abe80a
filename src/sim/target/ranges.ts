// A set of integers, stored as half-open ranges.

export type Range = readonly [from: number, end: number];

export class Ranges {
  readonly #ranges: readonly Range[];

  constructor(ranges: readonly Range[] = []) {
    this.#ranges = ranges;
  }

  static upTo(end: number): Ranges {
    return new Ranges(end > 0 ? [[0, end]] : []);
  }

  get size(): number {
    return this.#ranges.reduce((sum, [from, end]) => sum + (end - from), 0);
  }

  toJSON(): readonly Range[] {
    return this.#ranges;
  }

  union(other: Ranges): Ranges {
    const all = [...this.#ranges, ...other.#ranges].toSorted(([a], [b]) => a - b);
    const merged: [number, number][] = [];
    for (const [from, end] of all) {
      const last = merged.at(-1);
      if (last !== undefined && from <= last[1]) last[1] = Math.max(last[1], end);
      else merged.push([from, end]);
    }
    return new Ranges(merged);
  }

  minus(other: Ranges): Ranges {
    let remaining: readonly Range[] = this.#ranges;
    for (const [from, end] of other.#ranges) {
      remaining = remaining.flatMap(([first, last]): readonly Range[] => {
        if (end <= first || last <= from) return [[first, last]];
        const before: Range = [first, from];
        const after: Range = [end, last];
        return [before, after].filter(([low, high]) => low < high);
      });
    }
    return new Ranges(remaining);
  }

  /** The `count` lowest members, or all of them if there are fewer. */
  lowest(count: number): Ranges {
    const taken: Range[] = [];
    let missing = count;
    for (const [from, end] of this.#ranges) {
      if (missing <= 0) break;
      taken.push([from, Math.min(end, from + missing)]);
      missing -= end - from;
    }
    return new Ranges(taken);
  }
}
