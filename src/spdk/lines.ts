// Newline framing of SPDK's answers: compact JSON, one line each
// (docs/spdk-contract.md#transport-and-framing). Chunks are collected and joined once per line,
// because the answer of a full dump arrives in hundreds of chunks.

const NEWLINE = 0x0a;

/**
 * SPDK truncates an answer at exactly this many bytes, without a newline, and continues with the
 * next answer on the same line (docs/spdk-contract.md#limits). A complete answer has at most this
 * many, newline included.
 */
export const MAX_ANSWER_BYTES = 33_554_432;

/** The rest of the answer never comes (docs/spdk-contract.md#limits). */
export class AnswerTooLong extends Error {
  constructor() {
    super("answer longer than 32 MiB");
    this.name = "AnswerTooLong";
  }
}

export class LineReader {
  readonly #maxBytes: number;
  #chunks: Buffer[] = [];
  #bytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** Yields the lines that `chunk` completes. Throws when a line exceeds the limit. */
  *push(chunk: Buffer): Generator<string, void, undefined> {
    let start = 0;
    for (;;) {
      const end = chunk.indexOf(NEWLINE, start);
      if (end < 0) break;
      this.#keep(chunk.subarray(start, end));
      if (this.#bytes >= this.#maxBytes) throw new AnswerTooLong();
      yield this.#take();
      start = end + 1;
    }
    this.#keep(chunk.subarray(start));
    if (this.#bytes >= this.#maxBytes) throw new AnswerTooLong();
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
