// One change of one lvol, from its start to its effect: overlaps with other changes are detected
// when it starts and determine its outcome when it ends (docs/spdk-contract.md#overlaps).
import type { Context, Later } from "./method.ts";
import { familyOf, type Operation, type Overlap } from "./operation.ts";
import { asyncErrno, errno } from "./rpc-error.ts";
import type { LoadedStore, LvolBdev } from "./target.ts";

/**
 * Lvol changes in flight per store; further ones fail with ENOMEM (docs/spdk-contract.md#limits).
 */
const STORE_WINDOW = 512;

const NAME_BYTES = 63;

export type Effect = (overlap: Overlap) => unknown;

/** Finds an lvol by name, alias or uuid. */
export function lvolNamed({ target }: Context, name: string): LvolBdev {
  const lvol = target.lvol(name);
  if (lvol === undefined) throw errno("ENODEV");
  return lvol;
}

/**
 * Starts a change of an lvol. Changes of one clone family take effect in the order of their starts.
 * `parent`: a second lvol that the change locks.
 */
export function changeLvol(
  context: Context,
  lvol: LvolBdev,
  effect: Effect,
  parent?: LvolBdev,
): Later {
  const { operations, id, method } = context;
  const { store } = lvol;
  const family = familyOf(lvol);
  const operation: Operation = {
    method,
    id,
    store,
    lvol,
    family,
    disk: store.base.name,
    ...(parent !== undefined && { parent: { lvol: parent, family: familyOf(parent) } }),
  };
  checkWindow(context, store);
  const overlap = operations.start(operation);
  return {
    kind: "later",
    polls: 0,
    order: `family ${family}`,
    operations: [operation],
    complete: () => {
      if (overlap === "busy" || operation.verdict === "busy") throw busy(method);
      if (overlap === "gone" || !store.lvols.has(lvol.uuid)) throw asyncErrno("ENODEV");
      return effect(overlap);
    },
  };
}

/** Starts a change of a store without an existing lvol: the creation of an lvol. */
export function changeStore(context: Context, store: LoadedStore, effect: () => unknown): Later {
  const { operations, id, method } = context;
  const disk = store.base.name;
  const operation: Operation = { method, id, store, disk, lvol: undefined, family: undefined };
  checkWindow(context, store);
  const overlap = operations.start(operation);
  return {
    kind: "later",
    polls: 0,
    operations: [operation],
    complete: () => {
      if (overlap === "gone" || store.base.loaded !== store) throw asyncErrno("ENODEV");
      return effect();
    },
  };
}

/** EBUSY: an internal error for deletes, invalid parameters for every other method. */
export function busy(method: string): Error {
  return asyncErrno("EBUSY", method === "bdev_lvol_delete" ? -32603 : -32602);
}

/** Whether the name of an lvol or store has a valid length: 1 to 63 bytes. */
export function nameFits(name: string): boolean {
  const bytes = Buffer.byteLength(name);
  return bytes > 0 && bytes <= NAME_BYTES;
}

/** Number of clusters that hold `mebibytes` MiB, rounded up. */
export function clustersFor(store: LoadedStore, mebibytes: number): number {
  return Math.ceil((mebibytes * 1_048_576) / store.store.clusterBytes);
}

function checkWindow({ operations }: Context, store: LoadedStore): void {
  if (operations.onStore(store) >= STORE_WINDOW) throw asyncErrno("ENOMEM");
}
