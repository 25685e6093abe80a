// RPC methods on clone families: snapshot, clone, inflate, decouple, set parent
// (docs/spdk-contract.md#lvols).
import { randomUUID } from "node:crypto";
import { decode, required, text } from "./decode.ts";
import { Extents } from "./extents.ts";
import type { JsonValue } from "./json.ts";
import { allocate, refuseGrownClone } from "./clusters.ts";
import { changeLvol, lvolNamed, nameFits } from "./lvol-change.ts";
import { addLvol, reserving } from "./lvol-methods.ts";
import type { Blob } from "./media.ts";
import type { Context, Methods, Started } from "./method.ts";
import { Ranges } from "./ranges.ts";
import { asyncErrno } from "./rpc-error.ts";
import type { LoadedStore } from "./target.ts";

export const lvolFamilyMethods: Methods = {
  bdev_lvol_snapshot: snapshot,
  bdev_lvol_clone: clone,
  bdev_lvol_set_parent: setParent,
  bdev_lvol_inflate: (context, params) => {
    const lvol = lvolNamed(context, decode(params, { name: required(text) }).name);
    return changeLvol(context, lvol, () => {
      const { blob, store } = lvol;
      refuseGrownClone(context, lvol, blob.clusters);
      own(store, blob, Ranges.upTo(blob.clusters));
      blob.thin = false;
      blob.parent = undefined;
      store.base.disk.keep(blob);
      return true;
    });
  },
  bdev_lvol_decouple_parent: (context, params) => {
    const lvol = lvolNamed(context, decode(params, { name: required(text) }).name);
    return changeLvol(context, lvol, () => {
      const { blob, store } = lvol;
      const parent = store.store.blobs.get(blob.parent ?? "");
      if (parent === undefined) throw asyncErrno("EINVAL");
      const all = Ranges.upTo(blob.clusters);
      own(store, blob, parent.allocated.within(all).clusters);
      blob.parent = parent.parent;
      store.base.disk.keep(blob);
      return true;
    });
  },
};

/**
 * Allocates missing clusters to a blob: ancestors' data is copied, the rest keeps its old bytes.
 */
function own(store: LoadedStore, blob: Blob, wanted: Ranges): void {
  const missing = wanted.minus(blob.allocated.clusters);
  if (missing.size > store.store.free.size) throw asyncErrno("ENOSPC");
  allocate(store, blob, missing);
}

function snapshot(context: Context, params: JsonValue | undefined): Started {
  const shape = { lvol_name: required(text), snapshot_name: required(text) };
  const { lvol_name: lvolName, snapshot_name: name } = decode(params, shape);
  const lvol = lvolNamed(context, lvolName);
  const { store, blob } = lvol;
  checkNewName(store, name);
  if (blob.snapshot || blob.readOnly) throw asyncErrno("EINVAL");
  const later = changeLvol(context, lvol, () => {
    const uuid = randomUUID();
    addLvol(context.target, store, { ...blob, uuid, name, snapshot: true, readOnly: true });
    // The lvol keeps its uuid and becomes a thin clone of the snapshot.
    blob.parent = uuid;
    blob.thin = true;
    blob.allocated = new Extents();
    store.base.disk.keep(blob);
    return uuid;
  });
  return reserving(store, name, later);
}

function clone(context: Context, params: JsonValue | undefined): Started {
  const shape = { snapshot_name: required(text), clone_name: required(text) };
  const { snapshot_name: sourceName, clone_name: name } = decode(params, shape);
  const source = lvolNamed(context, sourceName);
  const { store, blob } = source;
  checkNewName(store, name);
  if (!blob.snapshot && !blob.readOnly) throw asyncErrno("EINVAL");
  const later = changeLvol(context, source, () => {
    if (!blob.snapshot) {
      blob.snapshot = true;
      store.base.disk.keep(blob);
    }
    return addLvol(context.target, store, {
      uuid: randomUUID(),
      name,
      clusters: blob.clusters,
      thin: true,
      snapshot: false,
      readOnly: false,
      // Never the snapshot's: SPDK sets none (docs/spdk-contract.md#clearing-of-clones).
      clear: "unmap",
      parent: blob.uuid,
      allocated: new Extents(),
    });
  });
  return reserving(store, name, later);
}

/** The lvol keeps its own clusters and its clear method; what it lacks is read from the snapshot. */
function setParent(context: Context, params: JsonValue | undefined): Started {
  const shape = { lvol_name: required(text), parent_name: required(text) };
  const asked = decode(params, shape);
  const lvol = lvolNamed(context, asked.lvol_name);
  const parent = lvolNamed(context, asked.parent_name);
  const { blob, store } = lvol;
  if (lvol === parent) throw asyncErrno("EINVAL");
  if (blob.parent === parent.uuid) throw asyncErrno("EEXIST");
  const hang = () => {
    // The target looks for the parent in the store of the lvol.
    if (parent.store !== store) throw asyncErrno("ENOENT");
    const fits = blob.thin && parent.blob.snapshot && blob.clusters === parent.blob.clusters;
    if (!fits) throw asyncErrno("EINVAL");
    blob.parent = parent.uuid;
    store.base.disk.keep(blob);
    return true;
  };
  return changeLvol(context, lvol, hang, parent);
}

function checkNewName(store: LoadedStore, name: string): void {
  if (!nameFits(name)) throw asyncErrno("EINVAL");
  if (store.names.has(name)) throw asyncErrno("EEXIST");
}
