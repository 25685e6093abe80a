// Which states of objects last: a state that is left again soon after it began is none that anybody needs to
// read about. The caller has the clock.

export type StateChange = {
  readonly id: string;
  readonly before: string;
  readonly after: string;
  readonly sinceMs: number;
};

type Pending = { readonly state: string; readonly sinceMs: number };

export class LastingStates {
  /** The last state of each object that lasted, or that it began with. */
  readonly #known = new Map<string, string>();
  /** Objects that are in another one. */
  readonly #pending = new Map<string, Pending>();

  /** What an object counts as until it is observed; without effect on one that is known. */
  begin(id: string, state: () => string): void {
    if (!this.#known.has(id)) this.#known.set(id, state());
  }

  /** sinceMs: when it may have got there. */
  observe(id: string, state: string, sinceMs: number): void {
    this.begin(id, () => state);
    if (this.#known.get(id) === state) this.#pending.delete(id);
    else if (this.#pending.get(id)?.state !== state) this.#pending.set(id, { state, sinceMs });
  }

  /** Those that began by then and have lasted until now; each is returned once. */
  lasting(began: { readonly beforeMs: number }): readonly StateChange[] {
    const changes: StateChange[] = [];
    for (const [id, { state, sinceMs }] of this.#pending) {
      if (sinceMs > began.beforeMs) continue;
      changes.push({ id, before: this.#known.get(id) ?? "", after: state, sinceMs });
      this.#known.set(id, state);
      this.#pending.delete(id);
    }
    return changes;
  }

  forget(id: string): void {
    this.#known.delete(id);
    this.#pending.delete(id);
  }
}
