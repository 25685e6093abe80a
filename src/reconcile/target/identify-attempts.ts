// Attempts to identify the target that failed in a row, whether it refused or died of them: the next one waits
// longer each time, also over its restarts.
import { backoffMs } from "../engine/backoff.ts";

export class IdentifyAttempts {
  #failed = 0;
  #notBeforeMs = 0;

  /** Failures in a row. */
  get failed(): number {
    return this.#failed;
  }

  /** Until the next attempt; 0: it may be made now. */
  get waitMs(): number {
    return Math.max(0, this.#notBeforeMs - performance.now());
  }

  fail(): { readonly attempt: number; readonly nextTry: string } {
    this.#failed += 1;
    const delayMs = backoffMs(this.#failed);
    this.#notBeforeMs = performance.now() + delayMs;
    return { attempt: this.#failed, nextTry: new Date(Date.now() + delayMs).toISOString() };
  }

  succeed(): void {
    this.#failed = 0;
    this.#notBeforeMs = 0;
  }
}
