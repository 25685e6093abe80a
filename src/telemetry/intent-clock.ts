// Measures how long intents take from their commit until they are observed. A committed row with a
// new generation starts the clock; one whose observed generation equals it stops the clock. Intents
// that were committed before this process started are not measured.
import type { IntentKind, Metrics } from "./metrics.ts";

type Row = {
  readonly id: string;
  readonly generation: bigint;
  readonly observedGeneration: bigint;
  readonly deleteRequestedTime: Date | undefined;
};

export class IntentClock {
  readonly #metrics: Pick<Metrics, "intentObserved">;
  readonly #now: () => number;
  readonly #running = new Map<string, { readonly generation: bigint; readonly sinceMs: number }>();

  constructor(
    metrics: Pick<Metrics, "intentObserved">,
    now: () => number = () => performance.now(),
  ) {
    this.#metrics = metrics;
    this.#now = now;
  }

  /** To be called with each row that this process has just committed. */
  committed(row: Row): void {
    const running = this.#running.get(row.id);
    if (row.observedGeneration === row.generation) {
      if (running === undefined) return;
      this.#running.delete(row.id);
      this.#metrics.intentObserved(kindOf(row), this.#now() - running.sinceMs);
    } else if (running?.generation !== row.generation) {
      this.#running.set(row.id, { generation: row.generation, sinceMs: this.#now() });
    }
  }
}

function kindOf({ generation, deleteRequestedTime }: Row): IntentKind {
  if (deleteRequestedTime !== undefined) return "delete";
  return generation === 1n ? "provision" : "update";
}
