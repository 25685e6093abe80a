// The grace: for how long requests that earlier agents have sent may still be running. It starts when the
// target is identified, and when a new lease epoch begins.
export class Grace {
  readonly #ms: number;
  readonly #onEnd: () => void;
  #until = new Date(0);
  #epoch: bigint | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(ms: number, onEnd: () => void) {
    this.#ms = ms;
    this.#onEnd = onEnd;
  }

  get until(): Date {
    return this.#until;
  }

  /**
   * Whether it was started in this epoch. A lease that lapsed and was renewed in the same epoch belonged to
   * no other agent meanwhile: it does not restart the grace.
   */
  isOf(epoch: bigint | undefined): boolean {
    return epoch === this.#epoch;
  }

  begin(epoch: bigint | undefined): void {
    this.#epoch = epoch;
    this.#until = new Date(Date.now() + this.#ms);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#end(), this.#ms);
    this.#timer.unref();
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #end(): void {
    // Date.now() may still be a fraction of a millisecond before the end, and no second call of onEnd
    // follows: mark the grace as over.
    this.#until = new Date(0);
    this.#onEnd();
  }
}
