// Clusters given to blobs and taken back, with what stands in them. SPDK clears nothing when it gives
// a cluster out: whoever reads what it did not write finds the bytes of the owner before (CONTRACT 0.2).
import { Extents } from "./extents.ts";
import type { Blob, Store } from "./media.ts";
import type { Context } from "./method.ts";
import { TargetAbort } from "./operation.ts";
import { Ranges } from "./ranges.ts";
import { asyncErrno } from "./rpc-error.ts";
import type { LoadedStore, LvolBdev } from "./target.ts";

/** Takes free clusters of a store, the lowest first. The caller has checked that there are enough. */
export function take({ store }: LoadedStore, clusters: Ranges): Extents {
  const places = store.free.lowest(clusters.size);
  store.free = store.free.minus(places);
  return Extents.lay(clusters, places);
}

/** Gives a blob clusters of its own; what an ancestor has in one of them is copied. */
export function allocate(loaded: LoadedStore, blob: Blob, clusters: Ranges): void {
  const { store, base } = loaded;
  const added = take(loaded, clusters);
  for (const [from, end] of inherited(store, blob, clusters).toJSON()) {
    for (let cluster = from; cluster < end; cluster += 1) {
      const [source, goal] = [placeOf(store, blob, cluster), added.at(cluster)];
      if (source !== undefined && goal !== undefined) base.disk.copyCluster(store, source, goal);
    }
  }
  blob.allocated = blob.allocated.union(added);
}

/** The second half of a delete or a shrink: until then nobody else gets the clusters. */
export function clearAndFree({ store, base }: LoadedStore, blob: Blob, places: Ranges): void {
  base.disk.clear(store, places, blob.clear);
  store.free = store.free.union(places);
}

/**
 * A release that does not remember how long a thick volume was when its snapshot was made dies when
 * anybody makes clusters beyond that its own (VERSIONS section 1). `end`: the first one not touched.
 */
export function refuseGrownClone(
  { release, method }: Pick<Context, "release" | "method">,
  { store: { store }, blob, alias }: LvolBdev,
  end: number,
): void {
  const thick = ancestors(store, blob).some((one) => !one.thin && one.clusters < end);
  if (!thick || !release.diesOfGrownClone) return;
  throw new TargetAbort(`${method} of ${alias} beyond its thick snapshot (${release.name})`);
}

/** What a host reads: its own clusters, else its ancestors', else zeros. */
export function readLvol({ store: { store, base }, blob }: LvolBdev, at: number, length: number) {
  return Buffer.concat(
    pieces(store, at, length).map(({ cluster, within, count }) => {
      const place = placeOf(store, blob, cluster);
      return place === undefined
        ? Buffer.alloc(count)
        : base.disk.read((store.firstCluster + place) * store.clusterBytes + within, count);
    }),
  );
}

/** What a host writes; the rest of a cluster that this makes its own is not cleared. Throws ENOSPC. */
export function writeLvol({ store: loaded, blob }: LvolBdev, at: number, bytes: Buffer): void {
  const { store, base } = loaded;
  let written = 0;
  for (const { cluster, within, count } of pieces(store, at, bytes.length)) {
    if (blob.allocated.at(cluster) === undefined) {
      if (store.free.size === 0) throw asyncErrno("ENOSPC");
      allocate(loaded, blob, new Ranges([[cluster, cluster + 1]]));
      base.disk.keep(blob);
    }
    const offset = (store.firstCluster + (blob.allocated.at(cluster) ?? 0)) * store.clusterBytes;
    base.disk.write(offset + within, bytes.subarray(written, written + count));
    written += count;
  }
}

function pieces({ clusterBytes }: Store, at: number, length: number) {
  const found: { readonly cluster: number; readonly within: number; readonly count: number }[] = [];
  for (let done = 0; done < length;) {
    const within = (at + done) % clusterBytes;
    const count = Math.min(length - done, clusterBytes - within);
    found.push({ cluster: Math.floor((at + done) / clusterBytes), within, count });
    done += count;
  }
  return found;
}

/** Where a cluster of a blob is read from: its own place or that of its nearest ancestor. */
function placeOf(store: Store, blob: Blob, cluster: number): number | undefined {
  const owner = [blob, ...ancestors(store, blob)].find(
    (one) => one.allocated.at(cluster) !== undefined,
  );
  return owner?.allocated.at(cluster);
}

/** Of these clusters, those that an ancestor has. */
function inherited(store: Store, blob: Blob, clusters: Ranges): Ranges {
  return ancestors(store, blob).reduce(
    (found, one) => found.union(one.allocated.within(clusters).clusters),
    new Ranges(),
  );
}

function ancestors(store: Store, blob: Blob): readonly Blob[] {
  const parent = parentOf(store, blob);
  return parent === undefined ? [] : [parent, ...ancestors(store, parent)];
}

function parentOf({ blobs }: Store, { parent }: Blob): Blob | undefined {
  return parent === undefined ? undefined : blobs.get(parent);
}
