// How free clusters are divided into the slices in which they are zeroed. Pure.

export type SliceLimits = {
  readonly sliceBytes: number;
  readonly slices: number;
  readonly reserveBytes: number;
  readonly firstSlices: number;
};

/**
 * Sizes in clusters: a few of one, then ever larger ones, so that clusters become free again early, and
 * as many as hosts may need meanwhile. Together they leave the reserve, at most half.
 */
export function sliceSizes(
  freeClusters: bigint,
  clusterBytes: bigint,
  limits: SliceLimits,
): readonly bigint[] {
  const clusters = (bytes: number) => divideUp(BigInt(bytes), clusterBytes);
  let left = freeClusters - min(clusters(limits.reserveBytes), freeClusters / 2n);
  const largest = max(clusters(limits.sliceBytes), divideUp(left, BigInt(limits.slices)));
  const sizes: bigint[] = [];
  let next = 1n;
  while (left > 0n) {
    const size = min(next, left);
    sizes.push(size);
    left -= size;
    if (sizes.length >= limits.firstSlices) next = min(next * 4n, largest);
  }
  return sizes;
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
