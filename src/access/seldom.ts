// What anybody on the network can cause is logged seldom.
import { REFUSALS_TOLD, REFUSED_AGAIN_MS } from "../limits.ts";

export class Seldom {
  readonly #told = new Map<string, number>();

  /** Whether it is time to tell of this again. */
  isDue(key: string): boolean {
    const now = performance.now();
    if (now - (this.#told.get(key) ?? -REFUSED_AGAIN_MS) < REFUSED_AGAIN_MS) return false;
    if (this.#told.size >= REFUSALS_TOLD) this.#told.clear();
    this.#told.set(key, now);
    return true;
  }
}
