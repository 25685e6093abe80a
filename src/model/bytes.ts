// Arithmetic and text of sizes. Sizes are bigint bytes everywhere in the agent; other units occur
// only in the messages of SPDK and of the API.

const KIB = 1024n;
const MIB = 1024n * KIB;
const TB = 1_000_000_000_000n;

/** The smallest multiple of unit that is at least value; requires value >= 0 and unit > 0. */
export function alignUp(value: bigint, unit: bigint): bigint {
  return ((value + unit - 1n) / unit) * unit;
}

/**
 * Cluster size in bytes of a new lvstore on a disk of diskBytes. Larger disks get larger clusters:
 * the more clusters an lvstore has, the longer it takes to load after a crash.
 */
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

/** A size as text for people, such as `1.5 GiB`: at most one decimal, rounded down. */
export function formatBytes(bytes: bigint): string {
  const [unit, size] = UNITS.find(([, least]) => bytes >= least) ?? ["bytes", 1n];
  const tenths = (bytes * 10n) / size;
  const decimal = tenths % 10n === 0n ? "" : `.${tenths % 10n}`;
  return `${tenths / 10n}${decimal} ${unit}`;
}
