// How long intents take until they are observed. It follows the rows as committed: a generation that
// was committed starts a clock, the record that it was observed ends it. Intents that were committed
// before this process began are not measured.
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

  /** A row as just committed. */
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
