// What all readers of Watch share: the objects as they were last sent, and the last changes in a ring. While
// somebody watches, what a commit or an observation touches is encoded once, in the next turn of the event
// loop; while nobody does, a change costs one entry in a map. It never reads the target or the database.
import { WatchResponse } from "../gen/storagenode/v1/storage_node.ts";
import { WATCH_CHANGES, WATCH_CHANGES_BYTES, WATCH_TURN_OBJECTS } from "../limits.ts";
import { Refusal } from "../model/errors.ts";
import type { RowChange } from "../store/rows.ts";
import { Ring, type RingLimits } from "./watch-ring.ts";
import { WatchedObjects, type WatchedKind } from "./watched-kind.ts";

export type WatchKindName = Exclude<RowChange["kind"], "controller">;

export type WatchSource = {
  /** In the order in which a list has them. */
  readonly kinds: Readonly<Record<WatchKindName, WatchedKind>>;
  /** The revision of the rows; 0n: a client cannot resume from what they are now. */
  readonly revision: () => bigint;
  /** Whether rows may be added that claim to be older than they are: nobody may resume from before. */
  readonly onHold: () => boolean;
};

export type ObjectChange = { readonly kind: WatchKindName; readonly id: string };

/** turnObjects: encoded in one turn of the event loop at most. */
export type WatchLimits = RingLimits & { readonly turnObjects: number };

const LIMITS: WatchLimits = {
  messages: WATCH_CHANGES,
  bytes: WATCH_CHANGES_BYTES,
  turnObjects: WATCH_TURN_OBJECTS,
};

export class WatchFeed {
  readonly #source: WatchSource;
  readonly #turnObjects: number;
  readonly #ring: Ring;
  readonly #objects: Readonly<Record<WatchKindName, WatchedObjects>>;
  readonly #waiting = new Set<() => void>();
  #readers = 0;
  #scheduled = false;
  /** Settles once every object was encoded since the first of the present readers came. */
  #encoded: Promise<void> | undefined;
  /** Everything up to this revision is in the ring or in the list. */
  #sent = 0n;
  /** Nobody can resume from an older revision: deleted objects were forgotten since. */
  #floor = 0n;
  #highest = 0n;
  /** Raised when rows vanished that nobody deleted: no reader knows that. */
  #history = 0;
  #loaded = false;

  constructor(source: WatchSource, limits: WatchLimits = LIMITS) {
    this.#source = source;
    this.#turnObjects = limits.turnObjects;
    this.#ring = new Ring(limits);
    const { disk, lvol, snapshot } = source.kinds;
    this.#objects = {
      disk: new WatchedObjects(disk),
      lvol: new WatchedObjects(lvol),
      snapshot: new WatchedObjects(snapshot),
    };
  }

  get readers(): number {
    return this.#readers;
  }

  /** Everything up to this revision was given to readers that have taken all messages. */
  get sentRevision(): bigint {
    return this.#isFlushed() ? this.#source.revision() : this.#sent;
  }

  /** Rows were committed or read. */
  committed(changes: readonly RowChange[]): void {
    const revision = this.#source.revision();
    // A database that went back has another history: what it counts on from here is not what was seen.
    if (revision < this.#highest) this.#forgetHistory(this.#highest + 1n);
    else if (!this.#loaded || this.#source.onHold()) this.#floor = revision;
    this.#highest = later(this.#highest, revision);
    this.#loaded ||= revision > 0n;
    for (const { kind, id, before } of changes) {
      // What a controller shows of its disks is in their rows.
      if (kind === "controller") continue;
      const objects = this.#objects[kind];
      if (objects.hasRow(id)) this.#touch(objects, id);
      else {
        objects.forget(id);
        if (isTombstone(before)) this.#floor = later(this.#floor, before.revision);
        else this.#forgetHistory(revision);
      }
    }
  }

  /** What was observed of an object may have changed; undefined: of every object. */
  observed(change: ObjectChange | undefined): void {
    if (change !== undefined) return this.#observed(this.#objects[change.kind], change.id);
    for (const objects of this.#all()) {
      for (const id of objects.ids()) this.#observed(objects, id);
    }
  }

  #observed(objects: WatchedObjects, id: string): void {
    if (!objects.hasRow(id)) return;
    objects.markObserved(id, this.#source.revision());
    this.#touch(objects, id);
  }

  #touch(objects: WatchedObjects, id: string): void {
    if (this.#readers === 0) return;
    objects.markDirty(id);
    this.#schedule();
  }

  /** Rows vanished without a tombstone: what readers know is not what is there. */
  #forgetHistory(floor: bigint): void {
    this.#floor = later(this.#floor, floor);
    this.#history += 1;
    this.#wake();
  }

  /** A reader that must be closed, and what it is to be sent first. fromRevision 0n: everything. */
  async open(fromRevision: bigint): Promise<WatchReader> {
    this.#refuseUnknown(fromRevision);
    this.#readers += 1;
    try {
      this.#encoded ??= this.#encodeAll();
      await this.#encoded;
      // It may have changed meanwhile.
      this.#refuseUnknown(fromRevision);
      const first = fromRevision === 0n ? this.#list() : this.#since(fromRevision);
      return new WatchReader(this, first, this.#history);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  close(): void {
    this.#readers -= 1;
    if (this.#readers > 0) return;
    this.#encoded = undefined;
    this.#ring.clear();
    for (const objects of this.#all()) objects.forgetParts(this.#source.revision());
  }

  #refuseUnknown(revision: bigint): void {
    const present = this.#source.revision();
    const known = revision === 0n || (revision >= this.#floor && revision <= present);
    if (known) return;
    const why = revision > present ? `the node is at ${present}` : "older changes are forgotten";
    throw expired(`changes after revision ${revision} are not known: ${why}`);
  }

  /** A few objects in each turn of the event loop, so that other calls are not held up. */
  async #encodeAll(): Promise<void> {
    this.#sent = this.#source.revision();
    for (const objects of this.#all()) for (const id of objects.ids()) objects.markDirty(id);
    while (this.#all().some(({ dirty }) => dirty > 0)) {
      // Only what is there belongs to a list; a change of it is encoded again, and sent.
      this.#takeChanged();
      await new Promise((resolve) => setImmediate(resolve));
    }
    this.#sent = this.#source.revision();
  }

  #list(): readonly Buffer[] {
    return this.#all().flatMap((objects) => objects.parts());
  }

  #since(revision: bigint): readonly Buffer[] {
    const notUp = this.#all().flatMap((objects) => objects.notUp());
    const sent = new Set(notUp);
    const changed = this.#all().flatMap((objects) => objects.changedSince(revision));
    const others = changed.filter(({ part }) => !sent.has(part));
    const ordered = others.toSorted((a, b) => Number(a.revision - b.revision));
    return [...notUp, ...ordered.map(({ part }) => part)];
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      if (this.#readers > 0) this.#flush();
    });
  }

  #flush(): void {
    const parts = this.#takeChanged();
    const before = this.#sent;
    const flushed = this.#isFlushed();
    if (flushed) this.#sent = this.#source.revision();
    else this.#schedule();
    for (const [index, part] of parts.entries()) {
      // A client may resume from the revision of any message: only the last one has the new one.
      const isLast = index === parts.length - 1;
      this.#ring.push(Buffer.concat([revisionPart(isLast ? this.#sent : before), part]));
    }
    if (parts.length > 0) this.#wake();
  }

  #takeChanged(): readonly Buffer[] {
    const revision = this.#source.revision();
    let left = this.#turnObjects;
    const taken: Buffer[] = [];
    for (const objects of this.#all()) {
      const { dirty } = objects;
      taken.push(...objects.takeChanged(left, revision));
      left -= Math.min(left, dirty);
    }
    return taken;
  }

  #isFlushed(): boolean {
    return this.#all().every(({ dirty }) => dirty === 0);
  }

  #all(): readonly WatchedObjects[] {
    return Object.values(this.#objects);
  }

  #wake(): void {
    for (const wake of this.#waiting) wake();
  }

  /** The message of that number; undefined if it does not exist yet. Throws a Refusal. */
  message(number: number, history: number): Buffer | undefined {
    if (history !== this.#history) {
      throw expired("the rows of the node were replaced by older ones");
    }
    if (number < this.#ring.first) {
      throw new Refusal(
        "READER_TOO_SLOW",
        `more than ${WATCH_CHANGES} changes or ${WATCH_CHANGES_BYTES} bytes of them wait to be read`,
        { retryAfterMs: 1_000 },
      );
    }
    return this.#ring.at(number);
  }

  get nextNumber(): number {
    return this.#ring.next;
  }

  /** Resolves when there may be something to read, after waitMs (undefined: never), or on abort. */
  wait(waitMs: number | undefined, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const timer = waitMs === undefined ? undefined : setTimeout(() => wake(), waitMs);
      const wake = () => {
        this.#waiting.delete(wake);
        clearTimeout(timer);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener("abort", wake, { once: true });
      if (signal.aborted) wake();
    });
  }
}

/** One stream: a place in the ring. */
export class WatchReader implements Disposable {
  /** What it is sent before the changes. */
  readonly first: readonly Buffer[];
  readonly #feed: WatchFeed;
  readonly #history: number;
  #next: number;

  constructor(feed: WatchFeed, first: readonly Buffer[], history: number) {
    this.#feed = feed;
    this.first = first;
    this.#history = history;
    this.#next = feed.nextNumber;
  }

  /** The next message; undefined if there is none yet. Throws a Refusal if it was missed. */
  take(): Buffer | undefined {
    const message = this.#feed.message(this.#next, this.#history);
    if (message !== undefined) this.#next += 1;
    return message;
  }

  [Symbol.dispose](): void {
    this.#feed.close();
  }
}

function expired(why: string): Refusal {
  return new Refusal("REVISION_EXPIRED", `${why}; watch from revision 0`);
}

function revisionPart(revision: bigint): Uint8Array {
  return WatchResponse.encode({ revision, change: undefined }).finish();
}

function later(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

function isTombstone(
  row: { readonly revision: bigint; readonly deleteTime?: Date | undefined } | undefined,
): row is { readonly revision: bigint; readonly deleteTime: Date } {
  return row?.deleteTime !== undefined;
}
