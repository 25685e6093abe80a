// I/O counters of volumes and disks as the target counts them: since a bdev was registered, and from
// zero again after that.

/** Latency is the sum over all operations. */
export type IoTotals = {
  readonly bytes: bigint;
  readonly operations: bigint;
  readonly latencyNs: bigint;
};

/** Whose counters they are. */
export type IoSubject = {
  /** Undefined: the disk itself. */
  readonly lvolId: string | undefined;
  readonly diskId: string;
  readonly bdevName: string;
};

/** What one answer of the target said of one subject. */
export type IoReading = IoSubject & {
  readonly read: IoTotals;
  readonly write: IoTotals;
  /** The process of the target that has counted; undefined: the bdev was unregistered since. */
  readonly incarnation: string | undefined;
  readonly time: Date;
  /** The number of the sample, which rises by one. */
  readonly sample: number;
  /** The last sample whose counters could not be compared with earlier ones; 0: none so far. */
  readonly resetSample: number;
};

/** Which subjects somebody wants to read. */
export type IostatFilter = {
  readonly lvolIds: readonly string[] | "all" | "none";
  /** Only volumes on these disks, and these disks. */
  readonly diskIds: readonly string[] | "all";
  readonly includeDisks: boolean;
};

/** One sample as readers with one filter see it; not to be changed. */
export type IostatFrame = {
  /** The number of the sample. */
  readonly sample: number;
  readonly time: Date;
  readonly readings: readonly IoReading[];
};

export type IostatReader = {
  readonly filter: IostatFilter;
  readonly intervalMs: number;
  /** Takes the frame without waiting for anything. */
  readonly onFrame: (frame: IostatFrame) => void;
};

/** Ticks at a rate per second, in nanoseconds. */
export function ticksToNs(ticks: bigint, ticksPerSecond: bigint): bigint {
  return ticksPerSecond === 0n ? 0n : (ticks * 1_000_000_000n) / ticksPerSecond;
}

/** Whether differences to an earlier reading mean nothing: the counters began anew since. */
export function beganAnew(before: IoReading, now: Omit<IoReading, "resetSample">): boolean {
  if (before.incarnation !== now.incarnation || before.bdevName !== now.bdevName) return true;
  return isLower(now.read, before.read) || isLower(now.write, before.write);
}

function isLower(now: IoTotals, before: IoTotals): boolean {
  return (
    now.bytes < before.bytes ||
    now.operations < before.operations ||
    now.latencyNs < before.latencyNs
  );
}
