// Newline framing of SPDK's answers: compact JSON, one line each (CONTRACT section 1). Chunks are
// kept as they come and joined once per line, because a full dump arrives in hundreds of chunks.

const NEWLINE = 0x0a;

/**
 * SPDK cuts an answer at exactly this many bytes, without newline, and the next answer of the
 * connection follows on the same line (CONTRACT 0.8). A whole answer, newline included, fits.
 */
export const MAX_ANSWER_BYTES = 33_554_432;

export class LineReader {
  readonly #maxBytes: number;
  #chunks: Buffer[] = [];
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** The lines that `chunk` completes. Throws when a line can no longer end within the limit. */
  *push(chunk: Buffer): Generator<string, void, undefined> {
    let start = 0;
    for (;;) {
      const end = chunk.indexOf(NEWLINE, start);
      if (end < 0) break;
      this.#keep(chunk.subarray(start, end));
      if (this.#bytes >= this.#maxBytes) throw new Error("answer longer than 32 MiB");
      yield this.#take();
      start = end + 1;
    }
    this.#keep(chunk.subarray(start));
    if (this.#bytes >= this.#maxBytes) throw new Error("answer cut at 32 MiB");
  }

  #keep(part: Buffer): void {
    if (part.length === 0) return;
    this.#chunks.push(part);
    this.#bytes += part.length;
  }

  #take(): string {
    const [only] = this.#chunks;
    const line =
      this.#chunks.length === 1 && only !== undefined ? only : Buffer.concat(this.#chunks);
    this.#chunks = [];
    this.#bytes = 0;
    return line.toString("utf8");
  }
}
