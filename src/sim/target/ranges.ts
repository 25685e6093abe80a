// A set of cluster numbers as ranges: a thick volume of a hundred thousand clusters is one entry.

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

  has(cluster: number): boolean {
    return this.#ranges.some(([from, end]) => from <= cluster && cluster < end);
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

  /** Without everything from `end` on. */
  below(limit: number): Ranges {
    return new Ranges(
      this.#ranges
        .filter(([from]) => from < limit)
        .map(([from, end]): Range => [from, Math.min(end, limit)]),
    );
  }
}
