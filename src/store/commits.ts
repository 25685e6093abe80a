// Whether what callers ask for can be committed. A transaction that failed for whatever reason puts that
// in doubt, and only a rehearsal of all that the writer writes ends the doubt: a commit of something
// else proves nothing for it.
import type { Logger } from "pino";
import { DATABASE_LATE_MS } from "../limits.ts";
import { Component, type StoreStatus } from "./component.ts";
import { isDatabaseDown, isLockedOut } from "./database.ts";
import { LeaseLost } from "./statements.ts";

export class Commits {
  readonly #component = new Component("not tried yet", { limitMs: DATABASE_LATE_MS });
  readonly #log: Logger;
  #inDoubt = true;
  #tried = false;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Whether a transaction or a rehearsal has ended since the start. */
  get tried(): boolean {
    return this.#tried;
  }

  get status(): StoreStatus {
    return this.#component.status;
  }

  /** A rehearsal is needed. */
  get inDoubt(): boolean {
    return this.#inDoubt;
  }

  /** Another lease, or data that was refused although admission keeps all constraints. */
  doubt(): void {
    this.#inDoubt = true;
  }

  /** A transaction begins. */
  begin(): void {
    this.#component.begin();
  }

  /** It was committed, or there was nothing to commit. */
  end(): void {
    this.#component.end();
    if (this.#inDoubt) return;
    this.#tried = true;
    this.#component.set(true, "");
  }

  /**
   * Rehearses, if there is a doubt; what fails in it is no fault of those who wait for a commit. Throws
   * LeaseLost, and if the database cannot be reached.
   */
  async prove(rehearse: () => Promise<void>): Promise<void> {
    if (!this.#inDoubt) return;
    try {
      await rehearse();
      this.#inDoubt = false;
    } catch (error) {
      if (error instanceof LeaseLost) throw error;
      if (isDatabaseDown(error) && !isLockedOut(error)) throw error;
      if (this.failed(error)) this.#log.error({ err: error }, "no change can be committed");
    }
  }

  /** Returns whether the cause is another one than before. */
  failed(error: unknown): boolean {
    this.#inDoubt = true;
    this.#tried = true;
    const { reason } = this.status;
    const message = error instanceof Error ? error.message : String(error);
    this.#component.set(false, `no change can be committed: ${message}`);
    return this.status.reason !== reason;
  }
}
