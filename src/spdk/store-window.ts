// Limits the unanswered requests per lvstore, because SPDK answers "Cannot allocate memory" from
// about 512 on (docs/spdk-contract.md#limits). It counts and queues requests; it never sends any.

type Store<T> = { inFlight: number; waiting: T[]; next: number };

export class StoreWindow<T> {
  readonly #limit: number;
  readonly #stores = new Map<string, Store<T>>();

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Counts the item as in flight and returns true, or queues it (FIFO) and returns false. */
  enter(key: string, item: T): boolean {
    let store = this.#stores.get(key);
    if (store === undefined) {
      store = { inFlight: 0, waiting: [], next: 0 };
      this.#stores.set(key, store);
    }
    if (store.inFlight >= this.#limit) {
      store.waiting.push(item);
      return false;
    }
    store.inFlight += 1;
    return true;
  }

  /**
   * Ends one request in flight. Returns the first queued item that `wanted` accepts, which is in
   * flight from now on, or undefined if there is none.
   */
  leave(key: string, wanted: (item: T) => boolean): T | undefined {
    const store = this.#stores.get(key);
    if (store === undefined) return undefined;
    while (store.next < store.waiting.length) {
      const item = store.waiting[store.next++];
      if (item === undefined || !wanted(item)) continue;
      // Drop the consumed part of the queue, or the array of a store that is never idle grows
      // forever.
      if (store.next > this.#limit && 2 * store.next > store.waiting.length) {
        store.waiting = store.waiting.slice(store.next);
        store.next = 0;
      }
      return item;
    }
    store.waiting = [];
    store.next = 0;
    store.inFlight -= 1;
    if (store.inFlight === 0) this.#stores.delete(key);
    return undefined;
  }

  /** Number of queued items of all stores. */
  get waiting(): number {
    let sum = 0;
    for (const { waiting, next } of this.#stores.values()) sum += waiting.length - next;
    return sum;
  }

  /** Forgets all requests, in flight and queued, and returns the queued items. */
  clear(): readonly T[] {
    const waiting = [...this.#stores.values()].flatMap((store) => store.waiting.slice(store.next));
    this.#stores.clear();
    return waiting;
  }
}
