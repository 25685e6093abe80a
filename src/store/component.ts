// A component of GetHealth: whether it is ok, why not, and since when. It is ok only while its last round
// trip succeeded: one that has not ended in time counts as failed until it does.
export type StoreStatus = { readonly ok: boolean; readonly reason: string; readonly since: Date };

export class Component {
  readonly #limitMs: number;
  #status: StoreStatus;
  #begun: { readonly atMs: number; readonly time: Date } | undefined;

  /** limitMs: within which a round trip has to end. ok: before the first one, which may not be needed. */
  constructor(reason: string, { limitMs = Number.POSITIVE_INFINITY, ok = false } = {}) {
    this.#limitMs = limitMs;
    this.#status = { ok, reason, since: new Date() };
  }

  get status(): StoreStatus {
    const begun = this.#begun;
    const late = begun !== undefined && performance.now() - begun.atMs > this.#limitMs;
    if (!late || !this.#status.ok) return this.#status;
    return { ok: false, reason: `no answer since ${begun.time.toISOString()}`, since: begun.time };
  }

  /** A late one changes the status, which its end changes back. */
  #endLate(): void {
    const { ok, since } = this.status;
    if (ok !== this.#status.ok) this.#status = { ...this.#status, ok, since };
    this.#begun = undefined;
  }

  /** A round trip begins. */
  begin(): void {
    this.#begun = { atMs: performance.now(), time: new Date() };
  }

  /** It has ended, and nothing changes. */
  end(): void {
    const { ok, reason } = this.#status;
    this.set(ok, reason);
  }

  /** The result of a round trip, which ends the one that has begun. */
  set(ok: boolean, reason: string): void {
    this.#endLate();
    const status = this.#status;
    if (ok === status.ok && reason === status.reason) return;
    this.#status = { ok, reason, since: ok === status.ok ? status.since : new Date() };
  }
}
