// The last messages of a stream with many readers, each kept once. A reader is a number: that of the next
// message. One that falls behind the oldest message kept is told so; no reader has a queue.
export type RingLimits = { readonly messages: number; readonly bytes: number };

export class Ring {
  readonly #limits: RingLimits;
  readonly #slots: (Buffer | undefined)[];
  #first = 0;
  #next = 0;
  #bytes = 0;

  constructor(limits: RingLimits) {
    this.#limits = limits;
    this.#slots = Array.from({ length: limits.messages });
  }

  /** The number of the message that is pushed next. */
  get next(): number {
    return this.#next;
  }

  /** The number of the oldest message kept. */
  get first(): number {
    return this.#first;
  }

  push(message: Buffer): void {
    const { messages, bytes } = this.#limits;
    while (this.#first < this.#next) {
      const full = this.#next - this.#first === messages;
      if (!full && this.#bytes + message.length <= bytes) break;
      this.#dropOldest();
    }
    this.#slots[this.#next % messages] = message;
    this.#bytes += message.length;
    this.#next += 1;
  }

  at(number: number): Buffer | undefined {
    const kept = number >= this.#first && number < this.#next;
    return kept ? this.#slots[number % this.#limits.messages] : undefined;
  }

  /** Forgets all messages; numbers go on. */
  clear(): void {
    while (this.#first < this.#next) this.#dropOldest();
  }

  #dropOldest(): void {
    const slot = this.#first % this.#limits.messages;
    this.#bytes -= this.#slots[slot]?.length ?? 0;
    this.#slots[slot] = undefined;
    this.#first += 1;
  }
}
