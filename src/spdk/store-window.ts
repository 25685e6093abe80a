// How many requests of one lvstore may be unanswered at once. SPDK answers "Cannot allocate memory"
// from about 512 on (CONTRACT section 8); this only counts and orders, it sends nothing.

type Store<T> = { inFlight: number; waiting: T[]; next: number };

export class StoreWindow<T> {
  readonly #limit: number;
  readonly #stores = new Map<string, Store<T>>();

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Takes a place and answers true, or queues the item in order of arrival and answers false. */
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

  /** Gives a place up: to the first item that still wants it, which is returned, or to nobody. */
  leave(key: string, wanted: (item: T) => boolean): T | undefined {
    const store = this.#stores.get(key);
    if (store === undefined) return undefined;
    while (store.next < store.waiting.length) {
      const item = store.waiting[store.next++];
      if (item === undefined || !wanted(item)) continue;
      // A window that never empties must not keep what has passed through it.
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

  /** Items that wait for a place, in all stores. */
  get waiting(): number {
    let sum = 0;
    for (const { waiting, next } of this.#stores.values()) sum += waiting.length - next;
    return sum;
  }

  /** Empties every window and returns the items that waited for a place. */
  clear(): readonly T[] {
    const waiting = [...this.#stores.values()].flatMap((store) => store.waiting.slice(store.next));
    this.#stores.clear();
    return waiting;
  }
}
