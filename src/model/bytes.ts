// Sizes are bigint bytes everywhere inside; they become other units at a wire only.

const KIB = 1024n;
const MIB = 1024n * KIB;
const TB = 1_000_000_000_000n;

/** The least multiple of unit that is not below value; value >= 0, unit > 0. */
export function alignUp(value: bigint, unit: bigint): bigint {
  return ((value + unit - 1n) / unit) * unit;
}

/** Cluster size of a new lvstore. A load after a crash takes longer the more clusters there are. */
export function clusterBytesFor(diskBytes: bigint): bigint {
  if (diskBytes <= 2n * TB) return 4n * MIB;
  if (diskBytes <= 16n * TB) return 16n * MIB;
  return 64n * MIB;
}

const UNITS = [
  ["PiB", 1024n ** 5n],
  ["TiB", 1024n ** 4n],
  ["GiB", 1024n ** 3n],
  ["MiB", MIB],
  ["KiB", KIB],
] as const;

/** For people: at most one decimal, rounded down. */
export function formatBytes(bytes: bigint): string {
  const [unit, size] = UNITS.find(([, least]) => bytes >= least) ?? ["bytes", 1n];
  const tenths = (bytes * 10n) / size;
  const decimal = tenths % 10n === 0n ? "" : `.${tenths % 10n}`;
  return `${tenths / 10n}${decimal} ${unit}`;
}
