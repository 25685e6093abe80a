// bdev_lvol_* calls (CONTRACT section 5), under SPDK's own names. Every change of an lvol names its
// store, whose window it takes a place in. Lanes are the caller's duty: overlapping changes of one
// clone family crash the target.

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

/** An lvol, by uuid once known (aliases change with renames), and its store. */
export type LvolInStore = { readonly lvsUuid: string; readonly name: string };

/** Exactly one of the two. */
export type LvstoreRef = { readonly name: string } | { readonly uuid: string };

export function lvolCalls(rpc: Rpc) {
  return { ...lvstoreCalls(rpc), ...lvolReads(rpc), ...lvolChanges(rpc) };
}

export type LvolCalls = ReturnType<typeof lvolCalls>;

function lvstoreCalls(rpc: Rpc) {
  return {
    /** The store's uuid. Overwrites whatever an unclaimed bdev holds, without a question. */
    async bdevLvolCreateLvstore(
      { bdevName, lvsName, clusterBytes, clearMethod }: CreateLvstore,
      options?: CallerOptions,
    ): Promise<string> {
      if (clusterBytes <= 0n || clusterBytes > MAX_UINT32) {
        throw new RangeError(`cluster of ${clusterBytes} bytes`);
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

    async getLvstore(ref: LvstoreRef, options?: CallerOptions): Promise<Lvstore | undefined> {
      const params = "uuid" in ref ? { uuid: ref.uuid } : { lvs_name: ref.name };
      const found = rpc.read("bdev_lvol_get_lvstores", params, list(lvstore), options);
      return (await absentAsUndefined(found))?.[0];
    },

    /** Together with all lvols, exported or not. */
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
    /** Every lvol of every store: 49 ms of blocked I/O at 5,000. */
    async bdevLvolGetLvols(options?: CallerOptions): Promise<readonly Lvol[]> {
      return await rpc.read("bdev_lvol_get_lvols", undefined, list(lvol), {
        ...options,
        dump: true,
      });
    },

    /** Every lvol of one store; undefined when that store is not loaded. */
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
    /** The lvol's uuid, which cannot be chosen. Its name is reserved as soon as this is read. */
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

    /** Never smaller: shrinking an exported lvol answers busy and loses data (CONTRACT 0.3). */
    async bdevLvolResize(
      { lvsUuid, name, sizeBytes }: LvolInStore & { readonly sizeBytes: bigint },
      options?: CallerOptions,
    ): Promise<void> {
      const params = { name, size_in_mib: mebibytes(sizeBytes) };
      await rpc.change("bdev_lvol_resize", params, flag, within(lvsUuid, options));
    },

    /** The snapshot's uuid. The lvol becomes a thin clone of it and keeps its own uuid. */
    async bdevLvolSnapshot(
      { lvsUuid, name, snapshotName }: LvolInStore & { readonly snapshotName: string },
      options?: CallerOptions,
    ): Promise<string> {
      const params = { lvol_name: name, snapshot_name: snapshotName };
      return await rpc.change("bdev_lvol_snapshot", params, text, within(lvsUuid, options));
    },

    /** The clone's uuid; `name` is the snapshot. The clone is thin. */
    async bdevLvolClone(
      { lvsUuid, name, cloneName }: LvolInStore & { readonly cloneName: string },
      options?: CallerOptions,
    ): Promise<string> {
      const params = { snapshot_name: name, clone_name: cloneName };
      return await rpc.change("bdev_lvol_clone", params, text, within(lvsUuid, options));
    },

    /** After any error the lvol may be out of the lists and back after a reload (CONTRACT 5). */
    async bdevLvolDelete({ lvsUuid, name }: LvolInStore, options?: CallerOptions): Promise<void> {
      await rpc.change("bdev_lvol_delete", { name }, flag, within(lvsUuid, options));
    },

    /** Copies everything; the clusters it allocates are not zeroed. */
    async bdevLvolInflate({ lvsUuid, name }: LvolInStore, options?: CallerOptions): Promise<void> {
      const bulk = { waitMs: WAIT_MS.bulk, ...options };
      await rpc.change("bdev_lvol_inflate", { name }, flag, within(lvsUuid, bulk));
    },

    /** For ever: there is no inverse. */
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

/** SPDK counts whole MiB. Throws RangeError on a size that is not, and on zero. */
function mebibytes(bytes: bigint): number {
  if (bytes <= 0n || bytes % MIB !== 0n) throw new RangeError(`${bytes} bytes are not whole MiB`);
  return Number(bytes / MIB);
}

const MIB = 1_048_576n;
const MAX_UINT32 = 0xffff_ffffn;
