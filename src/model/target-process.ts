// Which process of the target answers (docs/architecture.md#r3-target-and-incarnation). Its owner mark
// alone does not say: a saved configuration brings the mark back. Pure.

/** Why what depends on the target is not known or not done; its component of health says more. */
export const TARGET_AWAY = "the SPDK target does not answer, or is not identified";

/** What is known of one process of the target; what could not be had is undefined and not compared. */
export type ProcessFacts = {
  /** When the file of its socket was made, in ns: each process makes it anew. */
  readonly socketMtimeNs: bigint | undefined;
  readonly pid: number | undefined;
  /** Undefined as well while its main reactor is in interrupt mode, where its ticks stand still. */
  readonly clock: ProcessClock | undefined;
};

export type ProcessClock = {
  /** The start of the process, in ticks of the machine. */
  readonly startTicks: bigint;
  /** When this was read, in the same ticks. */
  readonly ticks: bigint;
  /** Ticks per second. */
  readonly tickRate: bigint;
};

/** A process whose owner mark is known. */
export type TargetProcess = ProcessFacts & {
  /** The incarnation that its owner mark names. */
  readonly mark: string;
  /** Its transport was made by an agent so that it refuses discards, which the target does not show. */
  readonly discardsMasked?: boolean | undefined;
};

/**
 * - same: it is the process that was known.
 * - restarted: that process has exited, and whatever was sent to it has ended.
 * - unsure: it may be either. What was sent may still be running, and may have been cut off.
 */
export type Continuity = "same" | "restarted" | "unsure";

/** Ticks of the start are equal within this time, and within this share of the time in between. */
const TOLERANCE_MS = 100n;
const TOLERANCE_PER_MILLE = 5n;

/**
 * Compares the process that was known with the one that answers now, which carries these owner marks of
 * this node. The same mark and the same file of the socket prove nothing: only pid or clock do.
 */
export function continuityOf(
  known: TargetProcess | undefined,
  shown: ProcessFacts,
  marks: readonly string[],
): Continuity {
  // No agent of this node has changed anything on a target without its mark.
  if (marks.length === 0) return "restarted";
  if (known === undefined) return "unsure";
  if (!marks.includes(known.mark)) return "restarted";
  const proofs = [
    both(known.pid, shown.pid, (a, b) => a === b),
    both(known.clock, shown.clock, sameStart),
  ];
  const equal = [both(known.socketMtimeNs, shown.socketMtimeNs, (a, b) => a === b), ...proofs];
  if (equal.includes(false)) return "restarted";
  return proofs.includes(true) ? "same" : "unsure";
}

/** What is known of a process after it was seen once more. */
export function seenAgain(known: TargetProcess, shown: ProcessFacts): TargetProcess {
  return {
    mark: known.mark,
    discardsMasked: known.discardsMasked,
    socketMtimeNs: shown.socketMtimeNs ?? known.socketMtimeNs,
    pid: shown.pid ?? known.pid,
    clock: shown.clock ?? known.clock,
  };
}

/** Whether a and b say as much of the same process; the time at which they were read does not count. */
export function sayTheSame(a: TargetProcess | undefined, b: TargetProcess): boolean {
  return (
    a?.mark === b.mark &&
    a.discardsMasked === b.discardsMasked &&
    a.socketMtimeNs === b.socketMtimeNs &&
    a.pid === b.pid &&
    (a.clock === undefined) === (b.clock === undefined)
  );
}

function both<T>(
  a: T | undefined,
  b: T | undefined,
  equal: (a: T, b: T) => boolean,
): boolean | undefined {
  return a === undefined || b === undefined ? undefined : equal(a, b);
}

function sameStart(known: ProcessClock, shown: ProcessClock): boolean {
  const away = shown.ticks - known.ticks;
  // The machine was booted in between.
  if (away < 0n) return false;
  const tolerance = (shown.tickRate * TOLERANCE_MS + away * TOLERANCE_PER_MILLE) / 1_000n;
  const apart = shown.startTicks - known.startTicks;
  return apart <= tolerance && -apart <= tolerance;
}
