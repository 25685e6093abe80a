// The fence: what this process may do to the target now. It is read in the same tick of the event
// loop as each write to the target's socket, so it uses fields and the monotonic clock, never a
// query.
import type { StoreStatus } from "./component.ts";

/**
 * - `read-only`: no change of the target.
 * - `restore-only`: only the calls that restore exports that were wanted, as the database cannot be
 *   reached, whether or not the lease has expired meanwhile.
 * - `read-write`: every change.
 */
export type WriteMode = "read-only" | "restore-only" | "read-write";

export class Fence {
  readonly #now: () => number;
  readonly #listeners = new Set<() => void>();
  #lockHeld = false;
  /** Until this time of `now`, in ms, no other agent can have acquired the lease. */
  #leaseUntilMs = Number.NEGATIVE_INFINITY;
  /** Until this time of `now`, in ms, the last failed attempt to reach the database is recent. */
  #databaseAwayUntilMs = Number.NEGATIVE_INFINITY;
  #epoch: bigint | undefined;
  #hold: string | undefined;
  #holdTime = new Date();
  /** The rows come from the local copy, so that exports may be restored without a lease. */
  #copied = false;
  /** The mode that a listener or a reader of `writeMode` knows. */
  #knownMode: WriteMode = "read-only";

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Epoch of the lease; undefined if this process never acquired it or another has since. */
  get epoch(): bigint | undefined {
    return this.#epoch;
  }

  get lockHeld(): boolean {
    return this.#lockHeld;
  }

  get leaseHeld(): boolean {
    return this.#epoch !== undefined && this.#now() < this.#leaseUntilMs;
  }

  /** When the lease ends or has ended, by its last renewal; undefined: this process never had it. */
  get leaseEndTime(): Date | undefined {
    if (!Number.isFinite(this.#leaseUntilMs)) return undefined;
    return new Date(Date.now() + this.#leaseUntilMs - this.#now());
  }

  /** The last attempt to reach the database failed, and recently: nothing can be committed. */
  get databaseAway(): boolean {
    return this.#now() < this.#databaseAwayUntilMs;
  }

  /** Why the node is on hold until an operator decides; undefined if it is not. */
  get hold(): string | undefined {
    return this.#hold;
  }

  /** When the hold began or ended, or the start. */
  get holdTime(): Date {
    return this.#holdTime;
  }

  get writeMode(): WriteMode {
    const writeMode = this.#writeModeNow();
    // No event marks the expiry of the lease. A reader that finds it expired skips its work, so the
    // mode is remembered, and a renewal calls the listeners.
    this.#knownMode = writeMode;
    return writeMode;
  }

  #writeModeNow(): WriteMode {
    if (!this.#lockHeld || this.#hold !== undefined) return "read-only";
    if (this.#epoch === undefined && !this.#copied) return "read-only";
    // Also while the lease holds: what needs a commit cannot be done, and what was wanted can be
    // restored at once.
    if (this.databaseAway) return "restore-only";
    // The lease also expires while this process is stopped, and another agent may have acquired it
    // since: restoring is allowed only if the database could not be reached just now.
    return this.leaseHeld ? "read-write" : "read-only";
  }

  setLock(held: boolean): void {
    this.#lockHeld = held;
    this.#notify();
  }

  /** @param untilMs end of the lease on the clock `now`, from before the renewal was sent */
  setLease(epoch: bigint, untilMs: number): void {
    this.#epoch = epoch;
    this.#leaseUntilMs = untilMs;
    this.#databaseAwayUntilMs = Number.NEGATIVE_INFINITY;
    this.#notify();
  }

  /** The rows come from the local copy, or do not any more. */
  setCopied(copied: boolean): void {
    this.#copied = copied;
    this.#notify();
  }

  /** The database answers; what this process may do is decided by its lease again. */
  setDatabaseReached(): void {
    this.setDatabaseAway(Number.NEGATIVE_INFINITY);
  }

  /** The database could not be reached; until untilMs, no other agent is expected to reach it. */
  setDatabaseAway(untilMs: number): void {
    this.#databaseAwayUntilMs = untilMs;
    this.#notify();
  }

  /** Another agent has acquired the lease: this process may not restore exports either. */
  loseLease(): void {
    this.#epoch = undefined;
    this.#leaseUntilMs = Number.NEGATIVE_INFINITY;
    this.#notify();
  }

  setHold(reason: string | undefined): void {
    if (reason !== this.#hold) this.#holdTime = new Date();
    this.#hold = reason;
    this.#notify();
  }

  /** Calls listener when the write mode has changed, until the returned function is called. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #notify(): void {
    const now = this.#writeModeNow();
    if (now === this.#knownMode) return;
    this.#knownMode = now;
    for (const listener of this.#listeners) listener();
  }
}

/** A lease that was not renewed is over since its end, whatever the renewal that is under way waits for. */
export function shownLease(
  status: StoreStatus,
  { leaseHeld, leaseEndTime }: Pick<Fence, "leaseHeld" | "leaseEndTime">,
  database: StoreStatus,
): StoreStatus {
  if (!status.ok || leaseHeld) return status;
  const why = database.ok ? "" : `: ${database.reason}`;
  return { ok: false, reason: `not renewed in time${why}`, since: leaseEndTime ?? status.since };
}
