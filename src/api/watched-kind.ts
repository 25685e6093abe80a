// What Watch has to know of a kind of object, and what it keeps of its objects.

export type WatchedRow = {
  readonly id: string;
  readonly revision: bigint;
  readonly deleteTime?: Date | undefined;
};

/** One kind of object that Watch shows. */
type KindOf<Row extends WatchedRow> = {
  readonly rows: () => Iterable<Row>;
  readonly row: (id: string) => Row | undefined;
  /** Whether the derived state is the normal one. */
  readonly isUp: (row: Row) => boolean;
  /** The object as the field `change` of a WatchResponse that has nothing else. */
  readonly encode: (row: Row) => Buffer;
};

/** As KindOf, of any type of row. */
export type WatchedKind = {
  readonly rows: () => Iterable<WatchedRow>;
  readonly row: (id: string) => WatchedRow | undefined;
  readonly isUp: (id: string) => boolean;
  /** Undefined: it has no row. */
  readonly encode: (id: string) => Buffer | undefined;
};

export function watchedKind<Row extends WatchedRow>(kind: KindOf<Row>): WatchedKind {
  const { rows, row } = kind;
  return {
    rows,
    row,
    isUp: (id) => {
      const found = row(id);
      return found !== undefined && kind.isUp(found);
    },
    encode: (id) => {
      const found = row(id);
      return found && kind.encode(found);
    },
  };
}

/** An object as it was last encoded. */
type Encoded = { readonly part: Buffer; readonly revision: bigint };

export class WatchedObjects {
  readonly #kind: WatchedKind;
  /** Objects that are to be encoded again. */
  readonly #dirty = new Set<string>();
  /** Every object that is there, as it was last sent; empty while nobody watches. */
  readonly #parts = new Map<string, Buffer>();
  /** The node's revision when the derived part of an object has changed last, or may have. */
  readonly #derivedAt = new Map<string, bigint>();
  /** Objects with a part that were observed since that was encoded: the next one shows whether they changed. */
  readonly #observed = new Set<string>();

  constructor(kind: WatchedKind) {
    this.#kind = kind;
  }

  get dirty(): number {
    return this.#dirty.size;
  }

  hasRow(id: string): boolean {
    return this.#kind.row(id) !== undefined;
  }

  markDirty(id: string): void {
    this.#dirty.add(id);
  }

  /** The derived part of the object may have changed, at this revision of the node. */
  markObserved(id: string, revision: bigint): void {
    if (this.#parts.has(id)) this.#observed.add(id);
    else this.#derivedAt.set(id, revision);
  }

  ids(): readonly string[] {
    return [...this.#kind.rows()].map(({ id }) => id);
  }

  /** Encodes up to `limit` dirty objects, at this revision; returns those that have changed since they were sent. */
  takeChanged(limit: number, revision: bigint): readonly Buffer[] {
    const changed: Buffer[] = [];
    let taken = 0;
    for (const id of this.#dirty) {
      if (taken === limit) break;
      taken += 1;
      this.#dirty.delete(id);
      const part = this.#encode(id, revision);
      if (part !== undefined) changed.push(part);
    }
    return changed;
  }

  /** Undefined: as it was sent last, or without a row. */
  #encode(id: string, revision: bigint): Buffer | undefined {
    const part = this.#kind.encode(id);
    const wasObserved = this.#observed.delete(id);
    if (part === undefined || this.#parts.get(id)?.equals(part) === true) return undefined;
    if (wasObserved) this.#derivedAt.set(id, revision);
    if (this.#kind.row(id)?.deleteTime === undefined) this.#parts.set(id, part);
    else this.#parts.delete(id);
    return part;
  }

  /** Every object that is there, as it was last sent. */
  parts(): readonly Buffer[] {
    return [...this.#parts.values()];
  }

  /** Every object that is not UP, as it was last sent. */
  notUp(): readonly Buffer[] {
    return [...this.#parts].flatMap(([id, part]) => (this.#kind.isUp(id) ? [] : [part]));
  }

  /** What may differ from what a reader has that knows everything up to `revision`; deleted ones too. */
  changedSince(revision: bigint): readonly Encoded[] {
    const found: Encoded[] = [];
    for (const row of this.#kind.rows()) {
      const derivedAt = this.#derivedAt.get(row.id) ?? -1n;
      if (row.revision <= revision && derivedAt < revision) continue;
      const part = this.#parts.get(row.id) ?? this.#kind.encode(row.id);
      if (part !== undefined) found.push({ part, revision: row.revision });
    }
    return found;
  }

  /** The row is gone. */
  forget(id: string): void {
    this.#dirty.delete(id);
    this.#parts.delete(id);
    this.#derivedAt.delete(id);
    this.#observed.delete(id);
  }

  /** Nobody watches any more, from this revision on: whether what was observed has changed is not found out. */
  forgetParts(revision: bigint): void {
    for (const id of this.#observed) this.#derivedAt.set(id, revision);
    this.#observed.clear();
    this.#dirty.clear();
    this.#parts.clear();
  }
}
