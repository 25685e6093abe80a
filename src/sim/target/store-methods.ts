// RPC methods on lvstores (docs/spdk-contract.md#lvstores).
import { randomUUID } from "node:crypto";
import { decode, oneOf, optional, required, text, unsigned } from "./decode.ts";
import type { JsonValue } from "./json.ts";
import { nameFits } from "./lvol-change.ts";
import type { Disk, Store } from "./media.ts";
import { Ranges } from "./ranges.ts";
import { done, type Context, type Methods, type Started } from "./method.ts";
import { TargetAbort } from "./operation.ts";
import { asyncErrno, errno, RpcError } from "./rpc-error.ts";
import { type DiskBdev, type LoadedStore, type Target } from "./target.ts";

const DEFAULT_CLUSTER_BYTES = 4 * 1_048_576;
const PAGE_BYTES = 4_096;
/** Polls that the format of a disk takes. */
const FORMAT_POLLS = 2;

export const clearMethod = oneOf("none", "unmap", "write_zeroes");

export const storeMethods: Methods = {
  bdev_lvol_create_lvstore: createStore,
  bdev_lvol_get_lvstores: ({ target }, params) => {
    if (params === undefined || params === null) {
      return done([...target.stores.values()].map(storeJson));
    }
    return done([storeJson(storeNamed(target, params))]);
  },
  bdev_lvol_rename_lvstore: renameStore,
  bdev_lvol_grow_lvstore: ({ target }, params) => {
    const { store, base } = storeNamed(target, params);
    return {
      kind: "later",
      polls: 0,
      complete: () => {
        base.disk.growStore(dataClusters(base.disk.bytes, store.clusterBytes));
        return true;
      },
    };
  },
  bdev_lvol_delete_lvstore: deleteStore,
};

/** Finds a store by uuid or name; exactly one of them must be given. */
export function storeNamed(
  target: Target,
  params: JsonValue | undefined,
  uuidField: "uuid" | "lvs_uuid" = "uuid",
): LoadedStore {
  const shape = { [uuidField]: optional(text), lvs_name: optional(text) };
  const asked: Readonly<Record<string, string | undefined>> = decode(params, shape);
  return storeOf(target, asked[uuidField], asked["lvs_name"]);
}

export function storeOf(
  target: Target,
  uuid: string | undefined,
  name: string | undefined,
): LoadedStore {
  if ((uuid === undefined) === (name === undefined)) throw errno("EINVAL");
  const found =
    uuid === undefined ? target.storeByName(name ?? "") : target.stores.get(uuid.toLowerCase());
  if (found === undefined) throw errno("ENODEV");
  return found;
}

/** Data clusters of a disk: metadata takes one page per cluster, three masks and a super block. */
function dataClusters(diskBytes: number, clusterBytes: number): number {
  const clusters = Math.floor(diskBytes / clusterBytes);
  const masks = 3 * Math.ceil(clusters / 8 / PAGE_BYTES);
  const pages = clusters + masks + 1;
  return clusters - Math.ceil((pages * PAGE_BYTES) / clusterBytes);
}

function createStore(context: Context, params: JsonValue | undefined): Started {
  const { target, operations, id, method } = context;
  const asked = decode(params, {
    bdev_name: required(text),
    lvs_name: required(text),
    cluster_sz: optional(unsigned(32)),
    clear_method: optional(clearMethod),
    num_md_pages_per_cluster_ratio: optional(unsigned(32)),
    md_page_size: optional(unsigned(32)),
  });
  const { lvs_name: name, cluster_sz: clusterBytes = DEFAULT_CLUSTER_BYTES } = asked;
  const base = target.bdev(asked.bdev_name);
  if (base === undefined) throw errno("ENODEV");
  if (base.kind !== "disk" || base.loaded !== undefined || base.exportedBy !== undefined) {
    throw errno("EPERM");
  }
  if (context.strict && target.examining.has(base)) {
    // It would overwrite the store that is about to be found there.
    throw new TargetAbort(`${method} (id ${id}) on ${base.name} while it is examined (strict)`);
  }
  if (clusterBytes < PAGE_BYTES || clusterBytes % PAGE_BYTES !== 0) throw errno("EINVAL");
  if (!nameFits(name)) throw errno("EINVAL");
  if (target.storeNames.has(name)) throw errno("EEXIST");
  target.storeNames.add(name);
  const operation = { method, id, store: undefined, lvol: undefined, family: undefined };
  const started = { ...operation, disk: base.name };
  operations.start(started);
  return {
    kind: "later",
    polls: FORMAT_POLLS,
    operations: [started],
    complete: () => {
      try {
        const totalClusters = dataClusters(base.disk.bytes, clusterBytes);
        return format(context, base, {
          uuid: randomUUID(),
          name,
          clusterBytes,
          totalClusters,
          clear: asked.clear_method ?? "unmap",
          firstCluster: Math.floor(base.disk.bytes / clusterBytes) - totalClusters,
          free: Ranges.upTo(totalClusters),
          blobs: new Map(),
        });
      } catch (error) {
        target.storeNames.delete(name);
        throw error;
      }
    },
  };
}

function format({ target, markDisk }: Context, base: DiskBdev, store: Store): string {
  if (target.bdev(base.name) !== base) throw asyncErrno("ENODEV");
  // Of two concurrent creations on one disk, the first wins.
  if (base.loaded !== undefined) throw asyncErrno("EPERM");
  if (store.clusterBytes > base.disk.bytes || store.totalClusters <= 0) throw asyncErrno("EINVAL");
  base.disk.format(store);
  base.disk.clearStore(store);
  target.loadStore(base, store);
  markDisk(base.disk.facts, true);
  return store.uuid;
}

function renameStore({ target }: Context, params: JsonValue | undefined): Started {
  const shape = { old_name: required(text), new_name: required(text) };
  const { old_name: oldName, new_name: newName } = decode(params, shape);
  const loaded = target.storeByName(oldName);
  if (loaded === undefined) throw new RpcError(-2, `Lvol store ${oldName} not found`);
  return {
    kind: "later",
    polls: 0,
    complete: () => {
      if (oldName === newName) return true;
      if (newName === "" || target.storeNames.has(newName)) throw asyncErrno("EEXIST");
      if (!nameFits(newName)) throw asyncErrno("EINVAL");
      target.storeNames.delete(oldName);
      target.storeNames.add(newName);
      loaded.base.disk.renameStore(newName);
      for (const lvol of loaded.lvols.values()) {
        target.realias(lvol, `${newName}/${lvol.blob.name}`);
      }
      return true;
    },
  };
}

function deleteStore(context: Context, params: JsonValue | undefined): Started {
  const { target, operations, id, method, strict, markDisk } = context;
  const loaded = storeNamed(target, params);
  if (strict && loaded.lvols.size > 0) {
    throw new TargetAbort(
      `${method} (id ${id}) of a store with ${loaded.lvols.size} lvols (strict)`,
    );
  }
  const disk: Disk = loaded.base.disk;
  const operation = {
    method,
    id,
    store: loaded,
    disk: loaded.base.name,
    lvol: undefined,
    family: undefined,
  };
  operations.start(operation);
  return {
    kind: "later",
    polls: 0,
    operations: [operation],
    complete: () => {
      if (loaded.base.loaded !== loaded) throw asyncErrno("ENODEV");
      target.unloadStore(loaded);
      disk.destroy();
      markDisk(disk.facts, false);
      return true;
    },
  };
}

function storeJson({ store, base }: LoadedStore): object {
  const { facts, bytes } = base.disk;
  return {
    uuid: store.uuid,
    name: store.name,
    base_bdev: base.name,
    total_data_clusters: store.totalClusters,
    free_clusters: store.free.size,
    block_size: facts.blockSize,
    cluster_size: store.clusterBytes,
    max_growable_size: Math.max(bytes, store.clusterBytes * 32_768),
  };
}
