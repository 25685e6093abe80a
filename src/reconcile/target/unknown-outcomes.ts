// Changes that were sent and whose answers were lost, by the id of the volume or disk. Until one is known
// to have ended its lanes stay closed, nothing is concluded from what is read of a subsystem, and only what
// may be sent twice is sent to it (docs/architecture.md#r2-unknown-outcomes).
//
// It ends with its own late answer; when the target was restarted; after the grace on a new connection; or
// when an operator says so (ResolveOutcome). A change of a subsystem also ends when a later one of the same
// subsystem is answered on the same connection, as SPDK makes them in their order.
import type { OutcomeSubject, UnknownOutcome } from "../../model/unknown-outcome.ts";

/** id: of the volume or the disk. */
export type UnknownOutcomeOf = UnknownOutcome & { readonly id: string };

type Lost = UnknownOutcomeOf & { readonly connectionNumber: number; readonly end: () => void };

export type UnknownOutcomesOptions = {
  /** Number of the present connection, or of the last one. */
  readonly connectionNumber: () => number;
  /** Nothing of that subject is unknown any more: it has to be read. */
  readonly onEnd: (id: string, of: OutcomeSubject) => void;
};

export class UnknownOutcomes {
  readonly #lost = new Map<string, Set<Lost>>();
  readonly #options: UnknownOutcomesOptions;

  constructor(options: UnknownOutcomesOptions) {
    this.#options = options;
  }

  list(): readonly UnknownOutcomeOf[] {
    return [...this.#lost.values()].flatMap((requests) => [...requests]);
  }

  /** The oldest one of an object, of the subject if that is given. */
  of(id: string, subject?: OutcomeSubject): UnknownOutcome | undefined {
    for (const lost of this.#lost.get(id) ?? []) {
      if (subject === undefined || lost.of === subject) return lost;
    }
    return undefined;
  }

  /**
   * Adds a request; `settled` ends it, as its own answer came late or it cannot be running any more.
   * Resolves when it has ended, in whichever way.
   */
  add(id: string, of: OutcomeSubject, method: string, settled: Promise<unknown>): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const requests = this.#lost.get(id) ?? new Set<Lost>();
    const end = () => {
      if (!requests.delete(lost)) return;
      if (requests.size === 0 && this.#lost.get(id) === requests) this.#lost.delete(id);
      resolve();
      if (this.of(id, of) === undefined) this.#options.onEnd(id, of);
    };
    const connectionNumber = this.#options.connectionNumber();
    const lost: Lost = { id, of, method, since: new Date(), connectionNumber, end };
    requests.add(lost);
    this.#lost.set(id, requests);
    settled.then(end, end);
    return promise;
  }

  /** A change of the subsystem that was sent after all of these was answered on this connection. */
  answeredLater(id: string): void {
    const now = this.#options.connectionNumber();
    for (const { of, connectionNumber, end } of this.#lost.get(id) ?? []) {
      if (of === "subsystem" && connectionNumber === now) end();
    }
  }

  /** Ends all of an object, as an operator says so; their methods. */
  resolve(id: string): readonly string[] {
    const requests = [...(this.#lost.get(id) ?? [])];
    for (const { end } of requests) end();
    return requests.map(({ method }) => method);
  }
}
