// What a simulated host wrote and was told to be written, by sector: what a read must return.

const SECTOR = 512;

type Sector = { readonly version: number; readonly bytes: Buffer | undefined };

export class WrittenData {
  readonly #sectors = new Map<number, Sector>();
  #version = 0;

  /**
   * A change of these blocks was sent: until it is confirmed they may read as anything. The result
   * confirms it with the bytes that stand there now.
   */
  changing(offset: number, length: number): (bytes: Buffer) => void {
    const version = (this.#version += 1);
    const sectors = sectorsOf(offset, length);
    for (const sector of sectors) this.#sectors.set(sector, { version, bytes: undefined });
    return (bytes) => {
      for (const [index, sector] of sectors.entries()) {
        // A later change of the same sector may have overtaken this one.
        if (this.#sectors.get(sector)?.version !== version) continue;
        const own = Buffer.from(bytes.subarray(index * SECTOR, (index + 1) * SECTOR));
        if (own.length === SECTOR) this.#sectors.set(sector, { version, bytes: own });
      }
    };
  }

  /** What a read that starts now must return: the result counts the sectors that differ. */
  reading(offset: number, length: number): (bytes: Buffer) => number {
    const sectors = sectorsOf(offset, length);
    const before = sectors.map((sector) => this.#sectors.get(sector));
    return (bytes) =>
      sectors.filter((sector, index) => {
        const known = before[index];
        if (known?.bytes === undefined || this.#sectors.get(sector) !== known) return false;
        return !known.bytes.equals(bytes.subarray(index * SECTOR, (index + 1) * SECTOR));
      }).length;
  }

  /** Ranges of sectors that are known, each with at most `maxBytes`. */
  known(maxBytes: number): readonly { readonly offset: number; readonly length: number }[] {
    const ranges: { offset: number; length: number }[] = [];
    const known = [...this.#sectors].filter(([, { bytes }]) => bytes !== undefined);
    for (const [sector] of known.toSorted(([a], [b]) => a - b)) {
      const last = ranges.at(-1);
      const follows = last !== undefined && last.offset + last.length === sector * SECTOR;
      if (follows && last.length < maxBytes) last.length += SECTOR;
      else ranges.push({ offset: sector * SECTOR, length: SECTOR });
    }
    return ranges;
  }
}

function sectorsOf(offset: number, length: number): readonly number[] {
  if (offset % SECTOR !== 0 || length % SECTOR !== 0) {
    throw new Error(`a host reads and writes whole sectors of ${SECTOR} bytes`);
  }
  return Array.from({ length: length / SECTOR }, (_, index) => offset / SECTOR + index);
}
