// Operations in flight and the result of overlaps (docs/spdk-contract.md#overlaps). Other requests
// may start between the start and the effect of a request, and some pairs crash a real target. The
// simulator always aborts on such a pair, with a message that names both requests.
import type { LoadedStore, LvolBdev } from "./target.ts";

/** A change that was started and has not taken effect yet. */
export type Operation = {
  readonly method: string;
  /** As the client wrote it, for the abort message. */
  readonly id: string;
  readonly store: LoadedStore | undefined;
  readonly lvol: LvolBdev | undefined;
  /** Root blob of the clone tree that it changes. */
  readonly family: string | undefined;
  /** A second lvol that it changes, with the root of its clone tree: the new parent. */
  readonly parent?: { readonly lvol: LvolBdev; readonly family: string };
  /** Name of the bdev of the disk, to detect the deletion of its store or its detach. */
  readonly disk: string | undefined;
  /** Set by a later overlapping operation: this one ends with EBUSY. */
  verdict?: "busy";
};

export class TargetAbort extends Error {
  constructor(message: string) {
    super(message);
    this.name = "TargetAbort";
  }
}

const DELETE = "bdev_lvol_delete";
const RESIZE = "bdev_lvol_resize";
const SNAPSHOT = "bdev_lvol_snapshot";
const CLONE = "bdev_lvol_clone";
const INFLATE = "bdev_lvol_inflate";
const SET_PARENT = "bdev_lvol_set_parent";
const DELETE_STORE = "bdev_lvol_delete_lvstore";
const DETACH = "bdev_nvme_detach_controller";

/** Pairs on one lvol, in either order, that crash the target. */
const FATAL_ON_ONE_LVOL = [
  [DELETE, RESIZE],
  [SNAPSHOT, DELETE],
] as const;

/** Pairs on one lvol of which the second fails with EBUSY and has no effect. */
const BUSY_ON_ONE_LVOL: readonly (readonly [first: string, second: string])[] = [
  [SNAPSHOT, SNAPSHOT],
  [SNAPSHOT, RESIZE],
  [RESIZE, SNAPSHOT],
  [CLONE, CLONE],
  [INFLATE, SNAPSHOT],
  [SNAPSHOT, INFLATE],
  [INFLATE, INFLATE],
  [INFLATE, RESIZE],
  [RESIZE, INFLATE],
  [RESIZE, RESIZE],
];

/** Effect of an overlap on the operation that starts now. */
export type Overlap = "none" | "busy" | "half_deleted" | "gone";

export class Operations {
  readonly #inFlight = new Set<Operation>();
  readonly #perStore = new Map<LoadedStore, number>();
  readonly #strict: boolean;

  constructor(options: { readonly strict: boolean }) {
    this.#strict = options.strict;
  }

  /** Number of changes in flight on a store. */
  onStore(store: LoadedStore): number {
    return this.#perStore.get(store) ?? 0;
  }

  /**
   * Adds an operation to those in flight. Throws TargetAbort where a real target crashes.
   * `half_deleted`: a delete that fails with EBUSY and leaves the lvol on the disk without a bdev.
   */
  start(operation: Operation): Overlap {
    let overlap: Overlap = "none";
    for (const other of this.#inFlight) {
      const found = this.#overlap(other, operation);
      if (found !== "none") overlap = found;
    }
    this.#inFlight.add(operation);
    if (operation.store !== undefined) {
      this.#perStore.set(operation.store, this.onStore(operation.store) + 1);
    }
    return overlap;
  }

  end(operation: Operation): void {
    if (!this.#inFlight.delete(operation) || operation.store === undefined) return;
    this.#perStore.set(operation.store, this.onStore(operation.store) - 1);
  }

  #overlap(first: Operation, second: Operation): Overlap {
    const existence = existenceOverlap(first, second);
    if (existence !== undefined) return existence;
    if (!shareFamily(first, second)) return "none";
    if (this.#strict) throw abortOf(first, second, "two changes of one family in flight");
    if (first.method === SET_PARENT || second.method === SET_PARENT)
      return lockedByParent(first, second);
    return first.lvol === second.lvol ? onOneLvol(first, second) : inOneFamily(first, second);
  }
}

/** A change of lvols that overlaps the deletion of their store or the detach of their disk. */
function existenceOverlap(first: Operation, second: Operation): Overlap | undefined {
  const ends = (method: string) => method === DELETE_STORE || method === DETACH;
  if (!ends(first.method) && !ends(second.method)) return undefined;
  if (first.disk === undefined || first.disk !== second.disk) return undefined;
  if (ends(first.method) && ends(second.method)) return "gone";
  const change = ends(first.method) ? second : first;
  if (change.store === undefined) return undefined;
  if (change.store.lvols.size > 0) {
    throw abortOf(first, second, "lvols change while their store is deleted or detached");
  }
  return change === second ? "gone" : undefined;
}

function shareFamily(first: Operation, second: Operation): boolean {
  const others = new Set([second.family, second.parent?.family]);
  return [first.family, first.parent?.family].some(
    (family) => family !== undefined && others.has(family),
  );
}

/** From the source: both lvols of bdev_lvol_set_parent are locked until it ends. */
function lockedByParent(first: Operation, second: Operation): Overlap {
  const locked = new Set([second.lvol, second.parent?.lvol]);
  const meets = [first.lvol, first.parent?.lvol].some(
    (lvol) => lvol !== undefined && locked.has(lvol),
  );
  if (!meets) return "none";
  return second.method === DELETE ? "half_deleted" : "busy";
}

function onOneLvol(first: Operation, second: Operation): Overlap {
  const pair = (a: string, b: string) =>
    (first.method === a && second.method === b) || (first.method === b && second.method === a);
  for (const [a, b] of FATAL_ON_ONE_LVOL) {
    if (pair(a, b)) throw abortOf(first, second, "changes of one lvol overlap");
  }
  if (first.method === DELETE && second.method === DELETE) return "busy";
  if (pair(DELETE, CLONE)) return deletingSource(first, second);
  if (pair(INFLATE, DELETE)) {
    if (second.method === DELETE) return "half_deleted";
    first.verdict = "busy";
    return "none";
  }
  const busy = BUSY_ON_ONE_LVOL.some(([a, b]) => first.method === a && second.method === b);
  return busy ? "busy" : "none";
}

/** A delete of a snapshot that is being cloned fails halfway; the clone succeeds. */
function deletingSource(first: Operation, second: Operation): Overlap {
  if (second.method === DELETE) return "half_deleted";
  first.verdict = "busy";
  return "none";
}

function inOneFamily(first: Operation, second: Operation): Overlap {
  if (first.method !== DELETE || second.method !== DELETE) return "none";
  const child = childOf(first, second);
  if (child === undefined) return "none";
  // A delete of the clone followed by one of its snapshot crashes the target. In the other order
  // the delete of the clone fails with EBUSY and the clone is back at the next load
  // (docs/spdk-contract.md#overlaps).
  if (child === first)
    throw abortOf(first, second, "a volume and its snapshot are deleted at once");
  return "half_deleted";
}

/** The operation whose lvol is a clone of the other operation's lvol. */
function childOf(first: Operation, second: Operation): Operation | undefined {
  if (first.lvol?.blob.parent === second.lvol?.uuid) return first;
  if (second.lvol?.blob.parent === first.lvol?.uuid) return second;
  return undefined;
}

function abortOf(first: Operation, second: Operation, why: string): TargetAbort {
  const name = ({ method, id, lvol }: Operation) =>
    `${method} (id ${id}${lvol === undefined ? "" : `, ${lvol.alias}`})`;
  return new TargetAbort(`${name(second)} started while ${name(first)} was running: ${why}`);
}

/** Root of the clone tree of an lvol. */
export function familyOf({ blob, store }: LvolBdev): string {
  let root = blob;
  for (;;) {
    const parent = root.parent === undefined ? undefined : store.store.blobs.get(root.parent);
    if (parent === undefined) return root.uuid;
    root = parent;
  }
}
