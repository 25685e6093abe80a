// When and how free clusters are zeroed. Pure.
import type { Isolation } from "./discards.ts";

/** auto: as soon as they may hold old bytes; manual: when ZeroFreeSpace is called. */
export type Zeroing = "auto" | "manual";

/** In `trusted` nobody needs it, and hosts free clusters all the time. */
export function zeroesByItself(policy: {
  readonly isolation: Isolation;
  readonly zeroing: Zeroing;
}): boolean {
  return policy.zeroing === "auto" && policy.isolation === "strict";
}

/** How long nothing is zeroed after tookMs of zeroing, so that this takes its share of the time. */
export function restMs(tookMs: number, sharePercent: number): number {
  return (tookMs * (100 - sharePercent)) / sharePercent;
}

/** Bytes per second; undefined: too little to tell. */
export function rateOf(bytes: bigint, tookMs: number): bigint | undefined {
  const rate = BigInt(Math.round((Number(bytes) * 1_000) / Math.max(tookMs, 0.001)));
  return rate > 0n ? rate : undefined;
}

export type SliceLimits = {
  readonly sliceBytes: number;
  readonly slices: number;
  readonly reserveBytes: number;
  readonly firstSlices: number;
};

/**
 * Sizes in clusters, the first one of the lowest clusters: it is zeroed before all that is free is held, and
 * half of it is free while that happens. Then a few of one cluster, and ever larger ones, so that clusters
 * become free again early. Together they leave the reserve, at most half.
 */
export function sliceSizes(
  freeClusters: bigint,
  clusterBytes: bigint,
  limits: SliceLimits,
): readonly bigint[] {
  const clusters = (bytes: number) => divideUp(BigInt(bytes), clusterBytes);
  const reserve = min(clusters(limits.reserveBytes), freeClusters / 2n);
  const first = reserve / 2n;
  let left = freeClusters - reserve - first;
  const largest = max(clusters(limits.sliceBytes), divideUp(left, BigInt(limits.slices)));
  const sizes: bigint[] = first > 0n ? [first] : [];
  let next = 1n;
  while (left > 0n) {
    const size = min(next, left);
    sizes.push(size);
    left -= size;
    if (sizes.length > limits.firstSlices) next = min(next * 4n, largest);
  }
  return sizes;
}

/**
 * Sizes in clusters of the slices that take all that is free, although hosts take some of it meanwhile: the
 * last ones are of one cluster, so that only as many of them fail.
 */
export function restSizes(freeClusters: bigint, singles: number): readonly bigint[] {
  const count = Number(min(freeClusters, BigInt(singles)));
  const large = freeClusters - BigInt(count);
  return [...(large > 0n ? [large] : []), ...Array.from({ length: count }, () => 1n)];
}

function divideUp(value: bigint, by: bigint): bigint {
  return (value + by - 1n) / by;
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}
