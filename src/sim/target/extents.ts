// Map from the clusters of a blob to the clusters of its lvstore, as runs. A contiguous thick lvol
// of any size is one entry.
import { Ranges, type Range } from "./ranges.ts";

/** Blob clusters `cluster`.. are stored in store clusters `at`..; `count` of them. */
export type Extent = readonly [cluster: number, at: number, count: number];

export class Extents {
  readonly #extents: readonly Extent[];

  constructor(extents: readonly Extent[] = []) {
    this.#extents = extents.toSorted(([a], [b]) => a - b);
  }

  /** Maps blob clusters to store clusters in ascending order. Both sets have the same size. */
  static lay(clusters: Ranges, places: Ranges): Extents {
    const extents: Extent[] = [];
    const free = places.toJSON().map(([from, end]) => ({ from, end }));
    for (const [from, end] of clusters.toJSON()) {
      for (let next = from; next < end;) {
        const place = free[0];
        if (place === undefined) throw new Error("fewer store clusters than blob clusters");
        const count = Math.min(end - next, place.end - place.from);
        extents.push([next, place.from, count]);
        next += count;
        place.from += count;
        if (place.from === place.end) free.shift();
      }
    }
    return new Extents(extents);
  }

  /** Number of clusters. */
  get size(): number {
    return this.#extents.reduce((sum, [, , count]) => sum + count, 0);
  }

  /** The blob's clusters that are allocated. */
  get clusters(): Ranges {
    return new Ranges(this.#extents.map(([from, , count]): Range => [from, from + count]));
  }

  /** The store's clusters that are in use. */
  get places(): Ranges {
    const ranges = this.#extents.map(([, at, count]): Range => [at, at + count]);
    return new Ranges().union(new Ranges(ranges));
  }

  toJSON(): readonly Extent[] {
    return this.#extents;
  }

  /** The store cluster of one blob cluster; undefined if not allocated. */
  at(cluster: number): number | undefined {
    const found = this.#extents.find(
      ([from, , count]) => from <= cluster && cluster < from + count,
    );
    return found === undefined ? undefined : found[1] + cluster - found[0];
  }

  /** Where both map a cluster, this one wins. */
  union(other: Extents): Extents {
    return new Extents([
      ...this.#extents,
      ...other.within(other.clusters.minus(this.clusters)).toJSON(),
    ]);
  }

  /** Only the clusters of the blob that are in these ranges. */
  within(clusters: Ranges): Extents {
    const extents = this.#extents.flatMap(([from, at, count]) =>
      clusters.toJSON().flatMap(([first, end]): Extent[] => {
        const [low, high] = [Math.max(from, first), Math.min(from + count, end)];
        return low < high ? [[low, at + low - from, high - low]] : [];
      }),
    );
    return new Extents(extents);
  }
}
