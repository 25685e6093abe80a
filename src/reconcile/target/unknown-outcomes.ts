// Changes of subsystems that were sent and whose answers were lost, by NQN. Until one is known to have
// ended, nothing is concluded from what is read of its subsystem, and only what may be sent twice is sent
// (docs/architecture.md).
//
// It ends when a later change of the same subsystem is answered on the same connection, as SPDK makes the
// changes of one subsystem in their order; when the target was restarted; after the grace on a new
// connection; or when an operator says so (ResolveOutcome).
import type { UnknownOutcome } from "../../model/lvol-state.ts";

type Lost = UnknownOutcome & { readonly end: () => void };

export class UnknownOutcomes {
  readonly #lost = new Map<string, Set<Lost>>();
  readonly #onEnd: (nqn: string) => void;

  /** onEnd: nothing about the subsystem is unknown any more; it has to be read. */
  constructor(onEnd: (nqn: string) => void) {
    this.#onEnd = onEnd;
  }

  get count(): number {
    return [...this.#lost.values()].reduce((sum, { size }) => sum + size, 0);
  }

  /** The oldest request on a subsystem whose outcome is unknown. */
  of(nqn: string): UnknownOutcome | undefined {
    const [oldest] = this.#lost.get(nqn) ?? [];
    return oldest;
  }

  /**
   * Adds a request; `settled` ends it, as its own answer came late or it cannot be running any more.
   * Resolves when it has ended, in whichever way.
   */
  add(nqn: string, method: string, settled: Promise<unknown>): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const requests = this.#lost.get(nqn) ?? new Set<Lost>();
    const end = () => {
      if (!requests.delete(lost)) return;
      if (requests.size === 0 && this.#lost.get(nqn) === requests) this.#lost.delete(nqn);
      resolve();
      if (!this.#lost.has(nqn)) this.#onEnd(nqn);
    };
    const lost: Lost = { method, since: new Date(), end };
    requests.add(lost);
    this.#lost.set(nqn, requests);
    settled.then(end, end);
    return promise;
  }

  /** Ends all requests on a subsystem; the methods of those that were open. */
  end(nqn: string): readonly string[] {
    const requests = [...(this.#lost.get(nqn) ?? [])];
    for (const { end } of requests) end();
    return requests.map(({ method }) => method);
  }
}
