// The node's rows in memory, exactly as committed. The agent with the lease is the only writer of
// its node's rows, so loops and reads need no query. While the database cannot be reached, these
// rows are the last known desired state.
import type { ControllerRow } from "../model/controller.ts";
import type { DiskRow } from "../model/disk.ts";
import type { LvolRow } from "../model/lvol.ts";
import type { SnapshotRow } from "../model/snapshot.ts";
import type { TargetProcess } from "../model/target-process.ts";
import { DirtIndex } from "./dirt-index.ts";
import { addTo, SnapshotIndex, type Family } from "./snapshot-index.ts";

export type NodeRow = {
  readonly nodeId: string;
  readonly cordoned: boolean;
  readonly revision: bigint;
  /** The process of the target that the rows were last written for; undefined: none was recorded. */
  readonly targetProcess: TargetProcess | undefined;
};

/**
 * `ours`: this process has just committed the row. `created`: it has also inserted it, so no step
 * can have been tried for it yet. `before`: the row before the change. A change whose object has no row
 * any more is the removal of that row.
 */
export type RowChange =
  | {
      readonly kind: "lvol";
      readonly id: string;
      readonly ours: boolean;
      readonly created: boolean;
      /** A host that could connect may not any more. */
      readonly revoked: boolean;
      readonly before: LvolRow | undefined;
    }
  | {
      readonly kind: "snapshot";
      readonly id: string;
      readonly before: SnapshotRow | undefined;
    }
  | { readonly kind: "disk"; readonly id: string; readonly before: DiskRow | undefined }
  | {
      readonly kind: "controller";
      readonly id: string;
      readonly before: ControllerRow | undefined;
    };

type Committed = {
  readonly node?: NodeRow;
  readonly lvols?: readonly LvolRow[];
  readonly snapshots?: readonly SnapshotRow[];
  readonly disks?: readonly DiskRow[];
  readonly controllers?: readonly ControllerRow[];
  /** Ids of volumes and snapshots whose rows are gone. */
  readonly compacted?: readonly string[];
};

const NONE: ReadonlySet<string> = new Set();

type Listener = (changes: readonly RowChange[]) => void;

export class Rows {
  readonly #lvols = new Map<string, LvolRow>();
  readonly #disks = new Map<string, DiskRow>();
  readonly #controllers = new Map<string, ControllerRow>();
  readonly #lvolByNqn = new Map<string, string>();
  readonly #lvolByUuid = new Map<string, string>();
  readonly #lvolsByDisk = new Map<string, Set<string>>();
  readonly #snapshots = new SnapshotIndex();
  readonly #dirt = new DirtIndex();
  /** Rows of deleted volumes and snapshots, the oldest first. */
  readonly #tombstones = new Map<string, Date>();
  readonly #listeners = new Set<Listener>();
  readonly #waiting = new Map<string, Set<() => void>>();
  #node: NodeRow | undefined;
  #copied = false;
  #version = 0;

  /** The rows are those of the local copy: the database was not read yet. */
  get copied(): boolean {
    return this.#copied;
  }

  get node(): NodeRow | undefined {
    return this.#node;
  }

  /** Differs after each change of a row: what was computed from the rows holds while it is the same. */
  get version(): number {
    return this.#version;
  }

  lvol(id: string): LvolRow | undefined {
    return this.#lvols.get(id);
  }

  lvolByNqn(nqn: string): LvolRow | undefined {
    const id = this.#lvolByNqn.get(nqn);
    return id === undefined ? undefined : this.#lvols.get(id);
  }

  /** By the lvol's uuid on the target, once it was recorded. */
  lvolByUuid(uuid: string): LvolRow | undefined {
    const id = this.#lvolByUuid.get(uuid);
    return id === undefined ? undefined : this.#lvols.get(id);
  }

  get snapshots(): Pick<SnapshotIndex, "get" | "all" | "byUuid" | "idsOn"> {
    return this.#snapshots;
  }

  /** The rows of one clone family, tombstones included. */
  family(root: string): Family {
    const ids = [...this.#snapshots.familyIds(root)];
    return {
      lvols: ids.flatMap((id) => this.#lvols.get(id) ?? []),
      snapshots: ids.flatMap((id) => this.#snapshots.get(id) ?? []),
    };
  }

  /** Number of volumes and snapshots in a clone family, tombstones included. */
  familySize(root: string): number {
    return this.#snapshots.familyIds(root).size;
  }

  disk(id: string): DiskRow | undefined {
    return this.#disks.get(id);
  }

  lvols(): IterableIterator<LvolRow> {
    return this.#lvols.values();
  }

  /** Ids of the volumes on a disk, tombstones included. */
  lvolIdsOn(diskId: string): ReadonlySet<string> {
    return this.#lvolsByDisk.get(diskId) ?? NONE;
  }

  /** Whether a pending op on the disk may have left old bytes in free clusters (`leavesDirt`). */
  mayLeaveDirt(diskId: string, incarnation: string | undefined): boolean {
    return this.#dirt.has(diskId, incarnation);
  }

  /**
   * Ids of the oldest rows of deleted volumes, at most `limit`, without the newest `kept` that are
   * not older than `before`, and without those that are being deleted again.
   */
  oldTombstones(
    before: Date,
    { kept, limit }: { readonly kept: number; readonly limit: number },
  ): readonly string[] {
    const old: string[] = [];
    let surplus = this.#tombstones.size - kept;
    for (const [id, deleteTime] of this.#tombstones) {
      if (old.length === limit || (surplus <= 0 && deleteTime > before)) break;
      surplus -= 1;
      const row = this.#lvols.get(id) ?? this.#snapshots.get(id);
      if (row?.pendingOp === undefined) old.push(id);
    }
    return old;
  }

  /** By PCI address. */
  controller(id: string): ControllerRow | undefined {
    return this.#controllers.get(id);
  }

  controllers(): IterableIterator<ControllerRow> {
    return this.#controllers.values();
  }

  disks(): IterableIterator<DiskRow> {
    return this.#disks.values();
  }

  /** Calls listener after each commit with its changes, until the returned function is called. */
  subscribe(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Applies rows that this process has committed. */
  apply(committed: Committed): void {
    this.#applyRows(committed, true);
    const compacted = committed.compacted ?? [];
    this.#announce([
      ...compacted.flatMap((id) => this.#lvols.get(id) ?? []).map((row) => this.#removeLvol(row)),
      ...compacted
        .flatMap((id) => this.#snapshots.get(id) ?? [])
        .map((row) => this.#removeSnapshot(row)),
    ]);
  }

  #announce(changes: readonly RowChange[]): void {
    if (changes.length > 0) for (const listener of this.#listeners) listener(changes);
  }

  #removeLvol(row: LvolRow): RowChange {
    this.#version += 1;
    this.#lvols.delete(row.id);
    this.#tombstones.delete(row.id);
    this.#lvolByNqn.delete(row.nqn);
    if (row.lvolUuid !== undefined) this.#lvolByUuid.delete(row.lvolUuid);
    this.#lvolsByDisk.get(row.diskId)?.delete(row.id);
    this.#dirt.delete(row.id);
    this.#snapshots.leave(row);
    return { kind: "lvol", id: row.id, ours: false, created: false, revoked: false, before: row };
  }

  #removeSnapshot(row: SnapshotRow): RowChange {
    this.#version += 1;
    this.#snapshots.delete(row);
    this.#tombstones.delete(row.id);
    this.#dirt.delete(row.id);
    return { kind: "snapshot", id: row.id, before: row };
  }

  #setSnapshot(row: SnapshotRow): RowChange {
    const before = this.#snapshots.get(row.id);
    this.#snapshots.set(row);
    this.#index(row);
    return { kind: "snapshot", id: row.id, before };
  }

  #index(row: LvolRow | SnapshotRow): void {
    if (row.deleteTime !== undefined) this.#tombstones.set(row.id, row.deleteTime);
    this.#dirt.set(row);
  }

  #applyRows(committed: Committed, ours: boolean): void {
    this.#version += 1;
    if (committed.node !== undefined) this.#node = committed.node;
    const changes: RowChange[] = [];
    for (const row of committed.disks ?? []) {
      const before = this.#disks.get(row.id);
      this.#disks.set(row.id, row);
      changes.push({ kind: "disk", id: row.id, before });
    }
    for (const row of committed.controllers ?? []) {
      const before = this.#controllers.get(row.id);
      this.#controllers.set(row.id, row);
      changes.push({ kind: "controller", id: row.id, before });
    }
    for (const row of committed.lvols ?? []) {
      const before = this.#lvols.get(row.id);
      // The row of a deleted volume comes back because its lvol has.
      const created = ours && before === undefined && row.deleteTime === undefined;
      const revoked = before !== undefined && isRevoked(before, row);
      this.#lvols.set(row.id, row);
      this.#index(row);
      this.#lvolByNqn.set(row.nqn, row.id);
      if (row.lvolUuid !== undefined) this.#lvolByUuid.set(row.lvolUuid, row.id);
      addTo(this.#lvolsByDisk, row.diskId, row.id);
      this.#snapshots.join(row);
      changes.push({ kind: "lvol", id: row.id, ours, created, revoked, before });
    }
    for (const row of committed.snapshots ?? []) changes.push(this.#setSnapshot(row));
    // A read calls the listeners even if nothing has changed: the first read makes the rows known.
    if (changes.length === 0 && ours) return;
    for (const listener of this.#listeners) listener(changes);
    for (const { id } of changes) this.touch(id);
  }

  /**
   * Replaces all rows by those of the database, or of the local copy, and calls the listeners with those that differ. Rows
   * that the database no longer has, as it was restored, are removed.
   */
  replace(all: {
    readonly node: NodeRow;
    readonly lvols: readonly LvolRow[];
    readonly snapshots: readonly SnapshotRow[];
    readonly disks: readonly DiskRow[];
    readonly controllers: readonly ControllerRow[];
    readonly copied?: boolean;
  }): void {
    this.#copied = all.copied === true;
    const committed = {
      node: all.node,
      disks: all.disks.filter((row) => this.#disks.get(row.id)?.revision !== row.revision),
      controllers: all.controllers.filter(
        (row) => this.#controllers.get(row.id)?.revision !== row.revision,
      ),
      lvols: all.lvols.filter((row) => this.#lvols.get(row.id)?.revision !== row.revision),
      snapshots: all.snapshots.filter(
        (row) => this.#snapshots.get(row.id)?.revision !== row.revision,
      ),
    };
    const removed = this.#removeAllBut(all);
    this.#applyRows(committed, false);
    this.#announce(removed);
  }

  #removeAllBut(all: {
    readonly lvols: readonly LvolRow[];
    readonly snapshots: readonly SnapshotRow[];
    readonly disks: readonly DiskRow[];
    readonly controllers: readonly ControllerRow[];
  }): readonly RowChange[] {
    const lvols = new Set(all.lvols.map(({ id }) => id));
    const snapshots = new Set(all.snapshots.map(({ id }) => id));
    const disks = new Set(all.disks.map(({ id }) => id));
    const controllers = new Set(all.controllers.map(({ id }) => id));
    const removed: RowChange[] = [];
    for (const row of this.#controllers.values()) {
      if (controllers.has(row.id)) continue;
      this.#controllers.delete(row.id);
      removed.push({ kind: "controller", id: row.id, before: row });
    }
    for (const row of this.#lvols.values()) {
      if (lvols.has(row.id)) continue;
      removed.push(this.#removeLvol(row));
    }
    for (const row of this.#snapshots.all()) {
      if (!snapshots.has(row.id)) removed.push(this.#removeSnapshot(row));
    }
    for (const row of this.#disks.values()) {
      if (disks.has(row.id)) continue;
      this.#disks.delete(row.id);
      removed.push({ kind: "disk", id: row.id, before: row });
    }
    return removed;
  }

  /** The object may have changed, on the target or in its row: runs the tests of `until` for it. */
  touch(id: string): void {
    const waiting = this.#waiting.get(id);
    if (waiting !== undefined) for (const check of waiting) check();
  }

  /**
   * Resolves true once test holds: at once, or after a `touch` of the object; false when the signal
   * aborts. Changes of other objects do not run the test.
   */
  until(id: string, test: () => boolean, signal: AbortSignal): Promise<boolean> {
    if (test()) return Promise.resolve(true);
    if (signal.aborted) return Promise.resolve(false);
    const waiting = this.#waiting.get(id) ?? new Set();
    this.#waiting.set(id, waiting);
    return new Promise((resolve) => {
      const end = (met: boolean) => {
        waiting.delete(check);
        if (waiting.size === 0 && this.#waiting.get(id) === waiting) this.#waiting.delete(id);
        signal.removeEventListener("abort", onAbort);
        resolve(met);
      };
      const onAbort = () => end(false);
      const check = () => {
        if (test()) end(true);
      };
      waiting.add(check);
      signal.addEventListener("abort", onAbort, { once: true });
    });
  }
}

function isRevoked(before: LvolRow, now: LvolRow): boolean {
  if (before.hosts === now.hosts && before.allowAnyHost === now.allowAnyHost) return false;
  return (
    (before.allowAnyHost && !now.allowAnyHost) ||
    before.hosts.some((host) => !now.hosts.includes(host))
  );
}
