// Contents of a disk, in pages. A page keeps its bytes until they are overwritten or zeroed;
// freeing a cluster erases nothing. A run of pages filled with one byte value takes one entry.

export const PAGE_BYTES = 4_096;

/** Pages `from` to `end` - 1 are filled with `byte`. */
export type Run = { readonly from: number; readonly end: number; readonly byte: number };
export type Page = { readonly page: number; readonly bytes: Buffer };

export class DiskBytes {
  /** Byte that fills pages never written. */
  readonly #prefill: number;
  #runs: readonly Run[] = [];
  readonly #pages = new Map<number, Buffer>();

  constructor(prefill: number) {
    this.#prefill = prefill;
  }

  /** For the journal: everything that differs from a disk never written. */
  *changes(): Generator<Run | Page> {
    yield* this.#runs;
    for (const [page, bytes] of this.#pages) yield { page, bytes };
  }

  read(offset: number, length: number): Buffer {
    const read = Buffer.alloc(length);
    for (let at = 0; at < length;) {
      const page = Math.floor((offset + at) / PAGE_BYTES);
      const within = (offset + at) % PAGE_BYTES;
      const count = Math.min(length - at, PAGE_BYTES - within);
      const bytes = this.#pages.get(page);
      if (bytes === undefined) read.fill(this.#byteOf(page), at, at + count);
      else bytes.copy(read, at, within, within + count);
      at += count;
    }
    return read;
  }

  page(page: number): Buffer {
    return this.#pages.get(page) ?? Buffer.alloc(PAGE_BYTES, this.#byteOf(page));
  }

  setPage({ page, bytes }: Page): void {
    this.#pages.set(page, bytes);
  }

  /** Whether any page of the run has other contents now. */
  differsFrom({ from, end, byte }: Run): boolean {
    if (this.#pagesIn(from, end).length > 0) return true;
    const runs = this.#runs.filter((run) => run.from < end && from < run.end);
    const covered = runs.reduce(
      (sum, run) => sum + Math.min(run.end, end) - Math.max(run.from, from),
      0,
    );
    const other = runs.some((run) => run.byte !== byte);
    return other || (covered < end - from && this.#prefill !== byte);
  }

  setRun(run: Run): void {
    for (const page of this.#pagesIn(run.from, run.end)) this.#pages.delete(page);
    const others = this.#runs.flatMap((one): readonly Run[] => {
      if (one.end <= run.from || run.end <= one.from) return [one];
      const before = { ...one, end: run.from };
      const after = { ...one, from: run.end };
      return [before, after].filter(({ from, end }) => from < end);
    });
    this.#runs = [...others, run];
  }

  #pagesIn(from: number, end: number): readonly number[] {
    return [...this.#pages.keys()].filter((page) => from <= page && page < end);
  }

  #byteOf(page: number): number {
    return this.#runs.find(({ from, end }) => from <= page && page < end)?.byte ?? this.#prefill;
  }
}
