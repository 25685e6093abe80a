// RPC methods on single lvols: create, list, resize, read-only, rename, delete
// (docs/spdk-contract.md#lvols).
import { randomUUID } from "node:crypto";
import { allocate, clearAndFree, take } from "./clusters.ts";
import { decode, flag, optional, required, text, unsigned } from "./decode.ts";
import { Extents } from "./extents.ts";
import { announceNamespaces } from "./host-connections.ts";
import type { JsonValue } from "./json.ts";
import { busy, changeLvol, changeStore, clustersFor, lvolNamed, nameFits } from "./lvol-change.ts";
import type { Blob } from "./media.ts";
import { done, HalfDone, type Context, type Methods, type Started } from "./method.ts";
import { TargetAbort } from "./operation.ts";
import { Ranges } from "./ranges.ts";
import { asyncErrno, errno } from "./rpc-error.ts";
import { clearMethod, storeNamed, storeOf } from "./store-methods.ts";
import { clonesOf, type LoadedStore, type LvolBdev, type Target } from "./target.ts";

/** SPDK cannot allocate the cluster map of a blob of this many clusters or more. */
const MAX_CLUSTERS = 2 ** 32;

export const lvolMethods: Methods = {
  bdev_lvol_create: createLvol,
  bdev_lvol_get_lvols: ({ target }, params) => {
    const stores =
      params === undefined || params === null
        ? [...target.stores.values()]
        : [storeNamed(target, params, "lvs_uuid")];
    return done(stores.flatMap(({ lvols }) => [...lvols.values()].map(lvolJson)));
  },
  bdev_lvol_resize: resizeLvol,
  bdev_lvol_set_read_only: (context, params) => {
    const { name } = decode(params, { name: required(text) });
    const lvol = lvolNamed(context, name);
    return changeLvol(context, lvol, () => {
      lvol.blob.readOnly = true;
      if (context.release.showsReadOnlyAtOnce) lvol.shownReadOnly = true;
      lvol.store.base.disk.keep(lvol.blob);
      return true;
    });
  },
  bdev_lvol_rename: renameLvol,
  bdev_lvol_delete: deleteLvol,
};

function createLvol(context: Context, params: JsonValue | undefined): Started {
  const asked = decode(params, {
    lvol_name: required(text),
    size_in_mib: required(unsigned(64)),
    lvs_name: optional(text),
    uuid: optional(text),
    thin_provision: optional(flag),
    clear_method: optional(clearMethod),
  });
  const { target } = context;
  const store = storeOf(target, asked.uuid, asked.lvs_name);
  const { lvol_name: name, thin_provision: thin = false } = asked;
  if (!nameFits(name)) throw errno("EINVAL");
  if (store.names.has(name)) throw errno("EEXIST");
  const clusters = clustersFor(store, asked.size_in_mib);
  const later = changeStore(context, store, () => {
    if (clusters >= MAX_CLUSTERS || store.store.blobs.size >= store.store.totalClusters) {
      throw asyncErrno("ENOMEM");
    }
    if (!thin && clusters > store.store.free.size) throw asyncErrno("ENOSPC");
    return addLvol(target, store, {
      uuid: randomUUID(),
      name,
      clusters,
      thin,
      snapshot: false,
      readOnly: false,
      clear: asked.clear_method ?? "unmap",
      parent: undefined,
      allocated: thin ? new Extents() : take(store, Ranges.upTo(clusters)),
    });
  });
  return reserving(store, name, later);
}

/** Reserves a name when a change starts; releases it if the change fails. */
export function reserving(
  store: LoadedStore,
  name: string,
  later: ReturnType<typeof changeStore>,
): Started {
  store.names.add(name);
  return {
    ...later,
    complete: () => {
      try {
        return later.complete();
      } catch (error) {
        store.names.delete(name);
        throw error;
      }
    },
  };
}

/** Writes a new blob to the disk and registers its bdev. Returns its uuid. */
export function addLvol(target: Target, store: LoadedStore, blob: Blob): string {
  store.base.disk.keep(blob);
  target.registerLvol(store, blob, { readOnly: blob.snapshot });
  return blob.uuid;
}

function resizeLvol(context: Context, params: JsonValue | undefined): Started {
  const shape = { name: required(text), size_in_mib: required(unsigned(64)) };
  const { name, size_in_mib: mebibytes } = decode(params, shape);
  const lvol = lvolNamed(context, name);
  const clusters = clustersFor(lvol.store, mebibytes);
  const { method, id, strict, target } = context;
  if (strict && clusters < lvol.blob.clusters) {
    throw new TargetAbort(`${method} (id ${id}) shrinks ${lvol.alias} (strict)`);
  }
  return changeLvol(context, lvol, () => {
    const { blob, store } = lvol;
    if (blob.readOnly || blob.snapshot) throw asyncErrno("EPERM");
    if (clusters >= MAX_CLUSTERS) throw asyncErrno("ENOMEM");
    if (!blob.thin && clusters - blob.allocated.size > store.store.free.size) {
      throw asyncErrno("ENOSPC");
    }
    const all = Ranges.upTo(clusters);
    const cut = blob.allocated.within(Ranges.upTo(blob.clusters).minus(all)).places;
    blob.clusters = clusters;
    blob.allocated = blob.allocated.within(all);
    if (!blob.thin) allocate(store, blob, all.minus(blob.allocated.clusters));
    store.base.disk.keep(blob);
    clearAndFree(store, blob, cut);
    const blocks = target.blocksOf(store, clusters);
    // The blob is already shrunk: only the bdev refuses to shrink while it is open.
    if (blocks < lvol.numBlocks && lvol.exportedBy !== undefined) throw busy(method);
    if (blocks !== lvol.numBlocks) {
      lvol.numBlocks = blocks;
      target.notify("bdev_resize", lvol);
      const exporting = target.subsystems.get(lvol.exportedBy ?? "");
      if (exporting !== undefined) announceNamespaces(exporting);
    }
    return true;
  });
}

function renameLvol(context: Context, params: JsonValue | undefined): Started {
  const shape = { old_name: required(text), new_name: required(text) };
  const { old_name: oldName, new_name: newName } = decode(params, shape);
  const lvol = lvolNamed(context, oldName);
  const { blob, store } = lvol;
  const { method, id, strict, target } = context;
  const fixed = blob.readOnly || blob.snapshot;
  if (strict && fixed) {
    throw new TargetAbort(`${method} (id ${id}) of ${lvol.alias}, which is read-only (strict)`);
  }
  return changeLvol(context, lvol, () => {
    const alias = `${store.store.name}/${newName}`;
    if (target.bdev(alias) !== undefined) throw asyncErrno("EEXIST");
    // The alias changes first and stays changed even if the rename on the disk fails.
    target.realias(lvol, alias);
    if (store.names.has(newName)) throw asyncErrno("EEXIST");
    if (fixed) throw asyncErrno("EPERM");
    store.names.delete(blob.name);
    store.names.add(newName);
    blob.name = newName;
    store.base.disk.keep(blob);
    return true;
  });
}

function deleteLvol(context: Context, params: JsonValue | undefined): Started {
  const { name } = decode(params, { name: required(text) });
  const lvol = lvolNamed(context, name);
  const { method, id, strict, target } = context;
  const { store, blob } = lvol;
  if (strict && isExported(target, lvol)) {
    throw new TargetAbort(`${method} (id ${id}) of ${lvol.alias}, which is exported (strict)`);
  }
  if (clonesOf(store.store, blob.uuid).length > 1) throw asyncErrno("EPERM", -32603);
  return changeLvol(context, lvol, (overlap) => {
    // The bdev is unregistered first: after a later failure the lvol is unlisted but still on the
    // disk.
    target.unregister(lvol);
    if (overlap === "half_deleted" || context.failsHalfway) throw busy(method);
    const freed = removeBlob(store, blob);
    return new HalfDone(() => {
      clearAndFree(store, blob, freed);
      return true;
    });
  });
}

/** A namespace of a subsystem that is being deleted does not count as an export. */
function isExported({ subsystems }: Target, { exportedBy }: LvolBdev): boolean {
  return exportedBy !== undefined && subsystems.get(exportedBy)?.deleting !== true;
}

/**
 * A snapshot passes its clusters and its parent to its one clone. Returns the clusters now unused.
 */
function removeBlob(store: LoadedStore, blob: Blob): Ranges {
  const { disk } = store.base;
  const [clone] = clonesOf(store.store, blob.uuid);
  disk.remove(blob.uuid);
  if (clone === undefined) return blob.allocated.places;
  const inherited = blob.allocated.within(Ranges.upTo(clone.clusters));
  clone.allocated = clone.allocated.union(inherited);
  clone.parent = blob.parent;
  disk.keep(clone);
  return blob.allocated.places.minus(clone.allocated.places);
}

function lvolJson({ blob, store }: LvolBdev): object {
  return {
    alias: `${store.store.name}/${blob.name}`,
    uuid: blob.uuid,
    name: blob.name,
    is_thin_provisioned: blob.thin,
    is_snapshot: blob.snapshot,
    is_clone: blob.parent !== undefined,
    is_esnap_clone: false,
    is_degraded: false,
    num_allocated_clusters: blob.allocated.size,
    lvs: { name: store.store.name, uuid: store.store.uuid },
  };
}
