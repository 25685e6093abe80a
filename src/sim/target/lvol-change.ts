// One change of one lvol, from its start to its effect: overlaps are met when it starts, and what they
// decided comes out when it ends (CONTRACT section 9).
import type { Context, Later } from "./method.ts";
import { familyOf, type Operation, type Overlap } from "./operation.ts";
import { asyncErrno, errno } from "./rpc-error.ts";
import type { LoadedStore, LvolBdev } from "./target.ts";

/** Changes of lvols that a store takes at a time; the next ones are refused (CONTRACT section 8). */
const STORE_WINDOW = 512;

const NAME_BYTES = 63;

export type Effect = (overlap: Overlap) => unknown;

/** Finds an lvol by name, alias or uuid. */
export function lvolNamed({ target }: Context, name: string): LvolBdev {
  const lvol = target.lvol(name);
  if (lvol === undefined) throw errno("ENODEV");
  return lvol;
}

/** Starts a change of an lvol. Changes of one family have their effects in the order of their starts. */
export function changeLvol(context: Context, lvol: LvolBdev, effect: Effect): Later {
  const { operations, id, method } = context;
  const { store } = lvol;
  const family = familyOf(lvol);
  const operation: Operation = { method, id, store, lvol, family, disk: store.base.name };
  checkWindow(context, store);
  const overlap = operations.start(operation);
  return {
    kind: "later",
    polls: 0,
    order: `family ${family}`,
    operation,
    complete: () => {
      if (overlap === "busy" || operation.verdict === "busy") throw busy(method);
      if (overlap === "gone" || !store.lvols.has(lvol.uuid)) throw asyncErrno("ENODEV");
      return effect(overlap);
    },
  };
}

/** Starts a change that belongs to a store only: a new lvol. */
export function changeStore(context: Context, store: LoadedStore, effect: () => unknown): Later {
  const { operations, id, method } = context;
  const disk = store.base.name;
  const operation: Operation = { method, id, store, disk, lvol: undefined, family: undefined };
  checkWindow(context, store);
  const overlap = operations.start(operation);
  return {
    kind: "later",
    polls: 0,
    operation,
    complete: () => {
      if (overlap === "gone" || store.base.loaded !== store) throw asyncErrno("ENODEV");
      return effect();
    },
  };
}

/** Deletes answer busy as an internal error, everything else as invalid parameters. */
export function busy(method: string): Error {
  return asyncErrno("EBUSY", method === "bdev_lvol_delete" ? -32603 : -32602);
}

/** Whether an lvol or store may be called that: 1 to 63 bytes. */
export function nameFits(name: string): boolean {
  const bytes = Buffer.byteLength(name);
  return bytes > 0 && bytes <= NAME_BYTES;
}

/** Clusters that hold so many MiB. */
export function clustersFor(store: LoadedStore, mebibytes: number): number {
  return Math.ceil((mebibytes * 1_048_576) / store.store.clusterBytes);
}

function checkWindow({ operations }: Context, store: LoadedStore): void {
  if (operations.onStore(store) >= STORE_WINDOW) throw asyncErrno("ENOMEM");
}
