// Allocation and release of clusters, with their contents. SPDK does not clear a cluster when it
// allocates it: a read of unwritten blocks returns the bytes of the previous owner
// (docs/spdk-contract.md#old-bytes).
import { Extents } from "./extents.ts";
import type { Blob, Store } from "./media.ts";
import type { Context } from "./method.ts";
import { TargetAbort } from "./operation.ts";
import { Ranges, type Range } from "./ranges.ts";
import { asyncErrno } from "./rpc-error.ts";
import type { LoadedStore, LvolBdev } from "./target.ts";

/**
 * Takes free clusters of a store, the lowest first. The caller has checked that there are enough.
 */
export function take({ store }: LoadedStore, clusters: Ranges): Extents {
  const places = store.free.lowest(clusters.size);
  store.free = store.free.minus(places);
  return Extents.lay(clusters, places);
}

/** The target has stopped in the middle of a write, which is not answered. */
class WriteCutOff extends Error {}

/**
 * Allocates clusters to a blob; data that an ancestor has in one of them is copied. The copy is on the disk
 * before the metadata that says whose the cluster is (docs/spdk-contract.md#old-bytes).
 */
export function allocate(
  loaded: LoadedStore,
  blob: Blob,
  clusters: Ranges,
  onCopied: () => void = () => {},
): void {
  const { store, base } = loaded;
  const added = take(loaded, clusters);
  const copied = inherited(store, blob, clusters);
  for (const [from, end] of copied.toJSON()) {
    for (let cluster = from; cluster < end; cluster += 1) {
      const [source, goal] = [placeOf(store, blob, cluster), added.at(cluster)];
      if (source !== undefined && goal !== undefined) base.disk.copyCluster(store, source, goal);
    }
  }
  if (copied.size > 0) onCopied();
  blob.allocated = blob.allocated.union(added);
}

/** The second half of a delete or a shrink: before it, the clusters are not free for allocation. */
export function clearAndFree({ store, base }: LoadedStore, blob: Blob, places: Ranges): void {
  base.disk.clear(store, places, blob.clear);
  store.free = store.free.union(places);
}

/**
 * Some releases do not record the size of a thick lvol at the time of its snapshot: they crash when
 * a clone allocates clusters beyond that size (docs/spdk-contract.md#behaviour-that-can-hurt).
 * Throws TargetAbort in that case. `end`: the first cluster that is not touched.
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

/** Reads bytes as a host would: from own clusters, else from an ancestor's, else zeros. */
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

/** How much of a range is stored on the disk, own or of an ancestor: the rest reads as zeros. */
export function storedBytes(
  { store: { store }, blob }: LvolBdev,
  at: number,
  length: number,
): number {
  return pieces(store, at, length)
    .filter(({ cluster }) => placeOf(store, blob, cluster) !== undefined)
    .reduce((sum, { count }) => sum + count, 0);
}

/**
 * Writes bytes as a host would; the rest of a newly allocated cluster is not cleared. Throws
 * ENOSPC.
 */
export function writeLvol({ store: loaded, blob }: LvolBdev, at: number, bytes: Buffer): void {
  const { store, base } = loaded;
  let written = 0;
  for (const { cluster, within, count } of pieces(store, at, bytes.length)) {
    if (blob.allocated.at(cluster) === undefined) {
      if (store.free.size === 0) throw asyncErrno("ENOSPC");
      allocate(loaded, blob, new Ranges([[cluster, cluster + 1]]), () => {
        base.disk.flush();
        if (base.disk.stopsAtCopy()) throw new WriteCutOff("the target has stopped");
      });
      base.disk.keep(blob);
    }
    const offset = (store.firstCluster + (blob.allocated.at(cluster) ?? 0)) * store.clusterBytes;
    base.disk.write(offset + within, bytes.subarray(written, written + count));
    written += count;
  }
}

/** Writes zeros as a host would: like any write it makes clusters the lvol's own and frees none. */
export function zeroLvol(lvol: LvolBdev, at: number, length: number): void {
  const { clusterBytes } = lvol.store.store;
  for (let done = 0; done < length;) {
    const count = Math.min(length - done, clusterBytes);
    writeLvol(lvol, at + done, Buffer.alloc(count));
    done += count;
  }
}

/**
 * Discards blocks as a host would: unmapped on the disk, and whole clusters of a thin lvol without
 * a parent return to the store with what stands in them (docs/spdk-contract.md#discard-by-hosts).
 * `frees`: whether the release, the subsystem and the transport let that happen.
 */
export function discardLvol(
  { store: loaded, blob }: LvolBdev,
  at: number,
  length: number,
  { frees }: { readonly frees: boolean },
): void {
  const { store, base } = loaded;
  const freed: Range[] = [];
  for (const { cluster, within, count } of pieces(store, at, length)) {
    const place = blob.allocated.at(cluster);
    if (place === undefined) continue;
    if (count === store.clusterBytes && frees && blob.thin && blob.parent === undefined) {
      freed.push([cluster, cluster + 1]);
    } else if (base.disk.facts.unmap === "zeroes") {
      const offset = (store.firstCluster + place) * store.clusterBytes + within;
      base.disk.write(offset, Buffer.alloc(count));
    }
  }
  if (freed.length === 0) return;
  const gone = new Ranges(freed);
  const places = blob.allocated.within(gone).places;
  blob.allocated = blob.allocated.within(Ranges.upTo(blob.clusters).minus(gone));
  base.disk.keep(blob);
  base.disk.clear(store, places, "unmap");
  store.free = store.free.union(places);
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

/** Store cluster that a blob cluster is read from: the blob's own, else its nearest ancestor's. */
function placeOf(store: Store, blob: Blob, cluster: number): number | undefined {
  const owner = [blob, ...ancestors(store, blob)].find(
    (one) => one.allocated.at(cluster) !== undefined,
  );
  return owner?.allocated.at(cluster);
}

/** The subset of `clusters` that an ancestor has allocated. */
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
