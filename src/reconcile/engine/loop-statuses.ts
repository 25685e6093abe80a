// What each loop of a driver did last, for people.
import type { LoopStatus } from "./kind.ts";

type Mutable = { -readonly [Key in keyof LoopStatus]: LoopStatus[Key] };

export class LoopStatuses {
  readonly #status = new Map<string, Mutable>();

  constructor(loops: readonly { readonly name: string }[]) {
    for (const { name } of loops) {
      this.#status.set(name, {
        name,
        passes: 0,
        lastReason: undefined,
        steps: 0,
        lastPassTime: undefined,
        lastDurationMs: 0,
        lastError: undefined,
      });
    }
  }

  get all(): readonly LoopStatus[] {
    return [...this.#status.values()];
  }

  passed(time: Date, durationMs: number): void {
    for (const status of this.#status.values()) {
      status.lastReason = status.passes === 0 ? "start" : "wake";
      status.passes += 1;
      status.lastPassTime = time;
      status.lastDurationMs = durationMs;
    }
  }

  dispatched(loop: string): void {
    const status = this.#status.get(loop);
    if (status !== undefined) status.steps += 1;
  }

  failed(loop: string, error: string): void {
    const status = this.#status.get(loop);
    if (status !== undefined) status.lastError = error;
  }
}
