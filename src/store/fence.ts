// What this process may do now. Asked in the same tick as each write to the target's socket, so it is
// a matter of fields and the monotonic clock, never of a query.

/**
 * - `change`: everything.
 * - `restore`: only what brings back exports that were wanted, while the database is away.
 */
export type WriteMode = "read-only" | "restore-only" | "read-write";

export class Fence {
  readonly #now: () => number;
  readonly #listeners = new Set<() => void>();
  #lockHeld = false;
  /** The monotonic moment up to which the lease surely is ours. */
  #leaseUntilMs = Number.NEGATIVE_INFINITY;
  /** Up to then an attempt to reach the database that failed is new enough to count. */
  #databaseAwayUntilMs = Number.NEGATIVE_INFINITY;
  #epoch: bigint | undefined;
  #hold: string | undefined;
  #before: WriteMode = "read-only";

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Undefined: the lease was never ours, or somebody else took it. */
  get epoch(): bigint | undefined {
    return this.#epoch;
  }

  get lockHeld(): boolean {
    return this.#lockHeld;
  }

  get leaseHeld(): boolean {
    return this.#epoch !== undefined && this.#now() < this.#leaseUntilMs;
  }

  /** Why an operator has to decide first. */
  get hold(): string | undefined {
    return this.#hold;
  }

  get writeMode(): WriteMode {
    const writeMode = this.#writeModeNow();
    // The end of a lease is announced by nobody. Who finds it ended leaves something undone, and must
    // be told when the lease is renewed.
    this.#before = writeMode;
    return writeMode;
  }

  #writeModeNow(): WriteMode {
    if (!this.#lockHeld || this.#epoch === undefined || this.#hold !== undefined)
      return "read-only";
    const now = this.#now();
    if (now < this.#leaseUntilMs) return "read-write";
    // A process that was stopped finds its lease ended too, and somebody else may have it by now.
    return now < this.#databaseAwayUntilMs ? "restore-only" : "read-only";
  }

  setLock(held: boolean): void {
    this.#lockHeld = held;
    this.#tell();
  }

  /** @param untilMs on the clock of this process, counted from before the renewal was sent */
  setLease(epoch: bigint, untilMs: number): void {
    this.#epoch = epoch;
    this.#leaseUntilMs = untilMs;
    this.#tell();
  }

  /** The database was just found to be out of reach: nobody takes the lease there. */
  setDatabaseAway(untilMs: number): void {
    this.#databaseAwayUntilMs = untilMs;
    this.#tell();
  }

  /** Somebody else has it: what they do is not ours to restore either. */
  loseLease(): void {
    this.#epoch = undefined;
    this.#leaseUntilMs = Number.NEGATIVE_INFINITY;
    this.#tell();
  }

  setHold(reason: string | undefined): void {
    this.#hold = reason;
    this.#tell();
  }

  /** Calls listener when what is allowed may have changed, until the returned function is called. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #tell(): void {
    const now = this.#writeModeNow();
    if (now === this.#before) return;
    this.#before = now;
    for (const listener of this.#listeners) listener();
  }
}
