// What stands in the free clusters of a simulated disk: old bytes there are shown to whoever gets them.
import type { CrashScenario } from "./crash-scenario.ts";

const PAGE = 4_096;

type Of = Pick<CrashScenario, "target">;

function onlyStore({ target }: Of) {
  const [loaded] = target.state().stores.values();
  if (loaded === undefined) throw new Error("no store is loaded");
  return loaded;
}

function freeClusters(of: Of): readonly number[] {
  const { store } = onlyStore(of);
  return store.free
    .toJSON()
    .flatMap(([from, end]) => Array.from({ length: end - from }, (_, index) => from + index));
}

function offsetOf(of: Of, cluster: number): number {
  const { store } = onlyStore(of);
  return (store.firstCluster + cluster) * store.clusterBytes;
}

/** How many clusters hosts could take now. */
export function freeClusterCount(of: Of): number {
  return freeClusters(of).length;
}

/** Writes a page into every free cluster, as if deletes had left them uncleared. */
export function soilFreeClusters(of: Of, byte: number): number {
  const { disk } = onlyStore(of).base;
  const clusters = freeClusters(of);
  for (const cluster of clusters) {
    disk.write(offsetOf(of, cluster) + PAGE, Buffer.alloc(PAGE, byte));
  }
  disk.flush();
  return clusters.length;
}

/** How many free clusters have bytes in their first pages, in which tests write. */
export function soiledClusters(of: Of): number {
  const { disk } = onlyStore(of).base;
  const isSoiled = (cluster: number) =>
    disk.read(offsetOf(of, cluster), 4 * PAGE).some((byte) => byte !== 0);
  return freeClusters(of).filter(isSoiled).length;
}

/** Names of the lvols that hold free clusters while they are being zeroed. */
export function slicesOf(of: Of): readonly string[] {
  const names = [...onlyStore(of).lvols.values()].map(({ blob }) => blob.name);
  return names.filter((name) => name.startsWith("zero-free-space"));
}
