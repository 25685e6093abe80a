// Replies about lvstores and lvols (docs/spdk-contract.md#lvols), parsed once into exact types.

import { big, flag, integer, object, text, type Read } from "./fields.ts";

export type Lvstore = {
  readonly uuid: string;
  readonly name: string;
  readonly baseBdev: string;
  readonly blockSize: number;
  readonly clusterBytes: bigint;
  readonly totalClusters: bigint;
  readonly freeClusters: bigint;
  readonly totalBytes: bigint;
  readonly freeBytes: bigint;
};

/** An entry of bdev_lvol_get_lvols. Size and parent snapshot are only in the bdev of the lvol. */
export type Lvol = {
  readonly uuid: string;
  readonly name: string;
  /** `<store name>/<lvol name>` */
  readonly alias: string;
  readonly thin: boolean;
  readonly snapshot: boolean;
  readonly clone: boolean;
  readonly degraded: boolean;
  /** Undefined on 24.01, which does not report it. */
  readonly allocatedClusters: bigint | undefined;
  readonly store: { readonly name: string; readonly uuid: string };
};

export const lvstore: Read<Lvstore> = object((fields) => {
  const clusterBytes = fields.get("cluster_size", big);
  const totalClusters = fields.get("total_data_clusters", big);
  const freeClusters = fields.get("free_clusters", big);
  return {
    uuid: fields.get("uuid", text),
    name: fields.get("name", text),
    baseBdev: fields.get("base_bdev", text),
    blockSize: fields.get("block_size", integer),
    clusterBytes,
    totalClusters,
    freeClusters,
    totalBytes: totalClusters * clusterBytes,
    freeBytes: freeClusters * clusterBytes,
  };
});

export const lvol: Read<Lvol> = object((fields) => ({
  uuid: fields.get("uuid", text),
  name: fields.get("name", text),
  alias: fields.get("alias", text),
  thin: fields.get("is_thin_provisioned", flag),
  snapshot: fields.get("is_snapshot", flag),
  clone: fields.get("is_clone", flag),
  degraded: fields.get("is_degraded", flag),
  allocatedClusters: fields.optional("num_allocated_clusters", big),
  store: fields.get("lvs", storeName),
}));

const storeName: Read<Lvol["store"]> = object((fields) => ({
  name: fields.get("name", text),
  uuid: fields.get("uuid", text),
}));
