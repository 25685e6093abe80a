// bdev_lvol_* calls (docs/spdk-contract.md#lvols), named after the SPDK methods. Every change of an
// lvol names its lvstore and counts against that store's limit of requests in flight
// (STORE_WINDOW). The caller must keep changes of one clone family in one lane: overlapping ones
// crash the target.

import { flag, list, text } from "./fields.ts";
import { lvol, lvstore, type Lvol, type Lvstore } from "./replies-lvol.ts";
import { absentAsUndefined, WAIT_MS, type CallerOptions, type Rpc } from "./rpc.ts";

export type ClearMethod = "none" | "unmap" | "write_zeroes";

export type CreateLvstore = {
  readonly bdevName: string;
  readonly lvsName: string;
  readonly clusterBytes: bigint;
  readonly clearMethod: ClearMethod;
};

export type CreateLvol = {
  readonly lvsUuid: string;
  /** 1 to 63 bytes. */
  readonly lvolName: string;
  /** Whole MiB; the target rounds up to clusters. */
  readonly sizeBytes: bigint;
  readonly thin: boolean;
  readonly clearMethod: ClearMethod;
};

/**
 * An lvol and its lvstore. `name`: the uuid once it is known, because a rename changes the alias.
 */
export type LvolInStore = { readonly lvsUuid: string; readonly name: string };

/** Exactly one of the two. */
export type LvstoreRef = { readonly name: string } | { readonly uuid: string };

export function lvolCalls(rpc: Rpc) {
  return { ...lvstoreCalls(rpc), ...lvolReads(rpc), ...lvolChanges(rpc) };
}

export type LvolCalls = ReturnType<typeof lvolCalls>;

function lvstoreCalls(rpc: Rpc) {
  return {
    /** Changes the aliases of its lvols, and no uuid. */
    async bdevLvolRenameLvstore(
      { oldName, newName }: { readonly oldName: string; readonly newName: string },
      options?: CallerOptions,
    ): Promise<void> {
      const params = { old_name: oldName, new_name: newName };
      await rpc.change("bdev_lvol_rename_lvstore", params, flag, options);
    },

    /**
     * Returns the lvstore's uuid. Overwrites the content of the bdev unless another module claims
     * it.
     */
    async bdevLvolCreateLvstore(
      { bdevName, lvsName, clusterBytes, clearMethod }: CreateLvstore,
      options?: CallerOptions,
    ): Promise<string> {
      if (clusterBytes <= 0n || clusterBytes > MAX_UINT32) {
        throw new RangeError(
          `cluster size of ${clusterBytes} bytes is not between 1 and ${MAX_UINT32} bytes`,
        );
      }
      return await rpc.change(
        "bdev_lvol_create_lvstore",
        {
          bdev_name: bdevName,
          lvs_name: lvsName,
          cluster_sz: Number(clusterBytes),
          clear_method: clearMethod,
        },
        text,
        { waitMs: WAIT_MS.bulk, ...options },
      );
    },

    async bdevLvolGetLvstores(options?: CallerOptions): Promise<readonly Lvstore[]> {
      return await rpc.read("bdev_lvol_get_lvstores", undefined, list(lvstore), options);
    },

    /** Undefined when that store does not exist or is not loaded. */
    async getLvstore(ref: LvstoreRef, options?: CallerOptions): Promise<Lvstore | undefined> {
      const params = "uuid" in ref ? { uuid: ref.uuid } : { lvs_name: ref.name };
      const found = rpc.read("bdev_lvol_get_lvstores", params, list(lvstore), options);
      return (await absentAsUndefined(found))?.[0];
    },

    /** Deletes all its lvols too, even exported ones. */
    async bdevLvolDeleteLvstore(lvsUuid: string, options?: CallerOptions): Promise<void> {
      await rpc.change("bdev_lvol_delete_lvstore", { uuid: lvsUuid }, flag, {
        waitMs: WAIT_MS.bulk,
        ...options,
      });
    },
  };
}

function lvolReads(rpc: Rpc) {
  return {
    /** Every lvol of every lvstore. Blocks I/O on the target for 49 ms at 5,000 lvols. */
    async bdevLvolGetLvols(options?: CallerOptions): Promise<readonly Lvol[]> {
      return await rpc.read("bdev_lvol_get_lvols", undefined, list(lvol), {
        ...options,
        dump: true,
      });
    },

    /** Every lvol of one lvstore; undefined when that store is not loaded. */
    async getLvols(ref: LvstoreRef, options?: CallerOptions): Promise<readonly Lvol[] | undefined> {
      const params = "uuid" in ref ? { lvs_uuid: ref.uuid } : { lvs_name: ref.name };
      return await absentAsUndefined(
        rpc.read("bdev_lvol_get_lvols", params, list(lvol), { ...options, dump: true }),
      );
    },
  };
}

function lvolChanges(rpc: Rpc) {
  return {
    /**
     * Returns the lvol's uuid, which SPDK chooses. SPDK reserves the name as soon as it reads the
     * request.
     */
    async bdevLvolCreate(lvol: CreateLvol, options?: CallerOptions): Promise<string> {
      const params = {
        uuid: lvol.lvsUuid,
        lvol_name: lvol.lvolName,
        size_in_mib: mebibytes(lvol.sizeBytes),
        thin_provision: lvol.thin,
        clear_method: lvol.clearMethod,
      };
      return await rpc.change("bdev_lvol_create", params, text, within(lvol.lvsUuid, options));
    },

    /**
     * Never call it to shrink: on an exported lvol SPDK answers busy and loses data
     * (docs/spdk-contract.md#shrink).
     */
    async bdevLvolResize(
      { lvsUuid, name, sizeBytes }: LvolInStore & { readonly sizeBytes: bigint },
      options?: CallerOptions,
    ): Promise<void> {
      const params = { name, size_in_mib: mebibytes(sizeBytes) };
      await rpc.change("bdev_lvol_resize", params, flag, within(lvsUuid, options));
    },

    /** Returns the snapshot's uuid. The lvol becomes a thin clone of it and keeps its own uuid. */
    async bdevLvolSnapshot(
      { lvsUuid, name, snapshotName }: LvolInStore & { readonly snapshotName: string },
      options?: CallerOptions,
    ): Promise<string> {
      const params = { lvol_name: name, snapshot_name: snapshotName };
      return await rpc.change("bdev_lvol_snapshot", params, text, within(lvsUuid, options));
    },

    /** Returns the uuid of the clone, which is thin. `name` is the snapshot. */
    async bdevLvolClone(
      { lvsUuid, name, cloneName }: LvolInStore & { readonly cloneName: string },
      options?: CallerOptions,
    ): Promise<string> {
      const params = { snapshot_name: name, clone_name: cloneName };
      return await rpc.change("bdev_lvol_clone", params, text, within(lvsUuid, options));
    },

    /** Changes the alias `<store name>/<lvol name>`, and no uuid. Never call it for what is read-only. */
    async bdevLvolRename(
      { lvsUuid, name, newName }: LvolInStore & { readonly newName: string },
      options?: CallerOptions,
    ): Promise<void> {
      const params = { old_name: name, new_name: newName };
      await rpc.change("bdev_lvol_rename", params, flag, within(lvsUuid, options));
    },

    /**
     * Makes a thin lvol a clone of a snapshot of the same store and size (24.05 and later). Unlike an
     * lvol of bdev_lvol_clone it keeps its clear method (docs/spdk-contract.md#clearing-of-clones).
     */
    async bdevLvolSetParent(
      { lvsUuid, name, parentName }: LvolInStore & { readonly parentName: string },
      options?: CallerOptions,
    ): Promise<void> {
      const params = { lvol_name: name, parent_name: parentName };
      await rpc.change("bdev_lvol_set_parent", params, flag, within(lvsUuid, options));
    },

    /**
     * After any error the lvol may be unlisted, and listed again after a reload
     * (docs/spdk-contract.md#a-delete-that-fails-halfway).
     */
    async bdevLvolDelete({ lvsUuid, name }: LvolInStore, options?: CallerOptions): Promise<void> {
      await rpc.change("bdev_lvol_delete", { name }, flag, within(lvsUuid, options));
    },

    /**
     * Allocates every cluster and copies the parent's data; newly allocated clusters are not
     * zeroed.
     */
    async bdevLvolInflate({ lvsUuid, name }: LvolInStore, options?: CallerOptions): Promise<void> {
      const bulk = { waitMs: WAIT_MS.bulk, ...options };
      await rpc.change("bdev_lvol_inflate", { name }, flag, within(lvsUuid, bulk));
    },

    /** Cannot be undone: SPDK has no inverse call. */
    async bdevLvolSetReadOnly(
      { lvsUuid, name }: LvolInStore,
      options?: CallerOptions,
    ): Promise<void> {
      await rpc.change("bdev_lvol_set_read_only", { name }, flag, within(lvsUuid, options));
    },
  };
}

function within(store: string, options: CallerOptions | undefined) {
  return { ...options, store };
}

/**
 * SPDK takes sizes in whole MiB. Throws RangeError unless `bytes` is a positive multiple of 1 MiB.
 */
function mebibytes(bytes: bigint): number {
  if (bytes <= 0n || bytes % MIB !== 0n) {
    throw new RangeError(`size of ${bytes} bytes is not a positive multiple of 1 MiB`);
  }
  return Number(bytes / MIB);
}

const MIB = 1_048_576n;
const MAX_UINT32 = 0xffff_ffffn;
