// Steps that were dispatched and are not answered, by object and by loop.

type InFlightStep = { readonly done: Promise<void>; readonly alone: boolean };

export class InFlight {
  /** By `LOOP/ID`, and then by the key of the step. */
  readonly #steps = new Map<string, Map<string, InFlightStep>>();
  readonly #counts = new Map<string, number>();

  get size(): number {
    return this.#steps.size;
  }

  /** Whether a step on this object is not answered yet. */
  has(id: string): boolean {
    return (this.#counts.get(id) ?? 0) > 0;
  }

  /** Whether a step of this loop on this object keeps another one from running beside it. */
  blocks(
    loop: string,
    id: string,
    next: { readonly key: string; readonly alone: boolean },
  ): boolean {
    const steps = this.#steps.get(`${loop}/${id}`);
    if (steps === undefined) return false;
    return next.alone || steps.has(next.key) || [...steps.values()].some(({ alone }) => alone);
  }

  begin(id: string): void {
    this.#counts.set(id, (this.#counts.get(id) ?? 0) + 1);
  }

  add(loop: string, id: string, key: string, step: InFlightStep): void {
    const place = `${loop}/${id}`;
    const steps = this.#steps.get(place) ?? new Map<string, InFlightStep>();
    steps.set(key, step);
    this.#steps.set(place, steps);
  }

  end(loop: string, id: string, key: string): void {
    const place = `${loop}/${id}`;
    const steps = this.#steps.get(place);
    steps?.delete(key);
    if (steps?.size === 0) this.#steps.delete(place);
    const left = (this.#counts.get(id) ?? 1) - 1;
    if (left > 0) this.#counts.set(id, left);
    else this.#counts.delete(id);
  }

  /** Resolves when the steps that are in flight now are answered. */
  async ended(): Promise<void> {
    const steps = [...this.#steps.values()].flatMap((some) => [...some.values()]);
    await Promise.all(steps.map(({ done }) => done));
  }
}
