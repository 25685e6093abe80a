// The node's snapshots in memory, and the clone families that they make with volumes.
import type { LvolRow } from "../model/lvol.ts";
import type { SnapshotRow } from "../model/snapshot.ts";

/** The rows of one clone family, tombstones included. */
export type Family = {
  readonly lvols: readonly LvolRow[];
  readonly snapshots: readonly SnapshotRow[];
};

export class SnapshotIndex {
  readonly #rows = new Map<string, SnapshotRow>();
  readonly #byUuid = new Map<string, string>();
  readonly #byDisk = new Map<string, Set<string>>();
  /** Ids of volumes and snapshots by the root of their family. */
  readonly #families = new Map<string, Set<string>>();

  get(id: string): SnapshotRow | undefined {
    return this.#rows.get(id);
  }

  /** By the snapshot's uuid on the target, once it was recorded. */
  byUuid(uuid: string): SnapshotRow | undefined {
    return this.#rows.get(this.#byUuid.get(uuid) ?? "");
  }

  all(): IterableIterator<SnapshotRow> {
    return this.#rows.values();
  }

  /** Ids of the snapshots on a disk, tombstones included. */
  idsOn(diskId: string): ReadonlySet<string> {
    return this.#byDisk.get(diskId) ?? new Set();
  }

  set(row: SnapshotRow): void {
    this.#rows.set(row.id, row);
    if (row.lvolUuid !== undefined) this.#byUuid.set(row.lvolUuid, row.id);
    addTo(this.#byDisk, row.diskId, row.id);
    this.join(row);
  }

  delete(row: SnapshotRow): void {
    this.#rows.delete(row.id);
    if (row.lvolUuid !== undefined) this.#byUuid.delete(row.lvolUuid);
    this.#byDisk.get(row.diskId)?.delete(row.id);
    this.leave(row);
  }

  /** Of volumes, which are kept elsewhere. */
  join({ id, familyRoot }: Pick<LvolRow, "id" | "familyRoot">): void {
    addTo(this.#families, familyRoot, id);
  }

  leave({ id, familyRoot }: Pick<LvolRow, "id" | "familyRoot">): void {
    const family = this.#families.get(familyRoot);
    family?.delete(id);
    if (family?.size === 0) this.#families.delete(familyRoot);
  }

  /** Ids of the volumes and snapshots of a family, tombstones included. */
  familyIds(root: string): ReadonlySet<string> {
    return this.#families.get(root) ?? new Set();
  }
}

export function addTo(sets: Map<string, Set<string>>, key: string, id: string): void {
  const set = sets.get(key);
  if (set === undefined) sets.set(key, new Set([id]));
  else set.add(id);
}
