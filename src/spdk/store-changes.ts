// Which lvstores this agent is changing, or has changed: their free clusters have to be read again. A
// change whose answer was lost counts as running until it is known to have ended.

export class StoreChanges {
  readonly #running = new Map<string, number>();
  readonly #ended = new Map<string, number>();

  /** A change of an lvol in the store is handed to the connection. */
  began(store: string): void {
    this.#running.set(store, (this.#running.get(store) ?? 0) + 1);
  }

  /** It was answered, or never will be. */
  ended(store: string): void {
    this.#running.set(store, Math.max((this.#running.get(store) ?? 0) - 1, 0));
    this.#ended.set(store, (this.#ended.get(store) ?? 0) + 1);
  }

  isRunning(store: string): boolean {
    return (this.#running.get(store) ?? 0) > 0;
  }

  /** Number of changes of the store that have ended: a read that begins now shows what they did. */
  count(store: string): number {
    return this.#ended.get(store) ?? 0;
  }
}
