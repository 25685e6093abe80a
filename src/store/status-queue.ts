// The status that loops record, merged per object until the writer takes it. The number of objects
// bounds it: while the database cannot be reached, a thousand records of one volume stay one entry.
import type { Span } from "@opentelemetry/api";
import type { ControllerRow, ControllerStatusPatch } from "../model/controller.ts";
import type { DiskRow, DiskStatusPatch } from "../model/disk.ts";
import type { LvolRow, LvolStatusPatch } from "../model/lvol.ts";
import type { SnapshotRow, SnapshotStatusPatch } from "../model/snapshot.ts";
import type { TargetProcess } from "../model/target-process.ts";
import { endSpan } from "../telemetry/trace.ts";
import type { Rows } from "./rows.ts";

export type Entry<Patch> = {
  readonly id: string;
  readonly generation: bigint;
  patch: Patch;
  readonly waiting: ((applied: boolean) => void)[];
  /** Spans of the traced callers that wait for the commit. */
  readonly spans: Span[];
};

/** What waits to be recorded, in the order in which it is written. */
export type StatusEntries = {
  /** Undefined: as recorded before. */
  readonly targetProcess: TargetProcess | undefined;
  readonly inserts: readonly Entry<DiskRow>[];
  readonly restored: readonly Entry<LvolRow>[];
  readonly lvols: readonly Entry<LvolStatusPatch>[];
  readonly snapshots: readonly Entry<SnapshotStatusPatch>[];
  readonly disks: readonly Entry<DiskStatusPatch>[];
  readonly newControllers: readonly Entry<ControllerRow>[];
  readonly controllers: readonly Entry<ControllerStatusPatch>[];
};

export const NO_STATUS: StatusEntries = {
  targetProcess: undefined,
  inserts: [],
  restored: [],
  lvols: [],
  snapshots: [],
  disks: [],
  newControllers: [],
  controllers: [],
};

/**
 * Status for one transaction: complete new rows, written only where the generation is unchanged.
 */
export type StatusBatch = {
  readonly lvols: readonly LvolRow[];
  readonly snapshots: readonly SnapshotRow[];
  readonly disks: readonly DiskRow[];
  readonly newDisks: readonly DiskRow[];
  readonly controllers: readonly ControllerRow[];
  readonly newControllers: readonly ControllerRow[];
  /** Rows of deleted volumes, in the place of their compacted tombstones. */
  readonly restored: readonly LvolRow[];
  /** What becomes a tombstone with this batch: its promised bytes are released. */
  readonly ended: readonly (LvolRow | SnapshotRow)[];
};

type ObjectEntry = Pick<Entry<unknown>, "id" | "waiting" | "spans">;

/** All entries that are about an object, in the order in which they are written. */
export function objectEntries(entries: StatusEntries): readonly ObjectEntry[] {
  const { inserts, restored, lvols, snapshots, disks, newControllers, controllers } = entries;
  return [
    ...inserts,
    ...restored,
    ...lvols,
    ...snapshots,
    ...disks,
    ...newControllers,
    ...controllers,
  ];
}

export class StatusQueue {
  #lvols = new Map<string, Entry<LvolStatusPatch>>();
  #snapshots = new Map<string, Entry<SnapshotStatusPatch>>();
  #disks = new Map<string, Entry<DiskStatusPatch>>();
  #inserts = new Map<string, Entry<DiskRow>>();
  #newControllers = new Map<string, Entry<ControllerRow>>();
  #controllers = new Map<string, Entry<ControllerStatusPatch>>();
  #restored = new Map<string, Entry<LvolRow>>();
  /** What the transaction in flight has taken. */
  #taken: readonly ObjectEntry[] = [];
  #targetProcess: TargetProcess | undefined;

  get size(): number {
    const processes = this.#targetProcess === undefined ? 0 : 1;
    return this.#maps().reduce((sum, { size }) => sum + size, processes);
  }

  #maps() {
    const disks = [this.#inserts, this.#disks, this.#newControllers, this.#controllers] as const;
    return [...disks, this.#restored, this.#lvols, this.#snapshots] as const;
  }

  setTargetProcess(targetProcess: TargetProcess): void {
    this.#targetProcess = targetProcess;
  }

  addLvol(
    row: Pick<LvolRow, "id" | "generation">,
    patch: LvolStatusPatch,
    span: Span | undefined,
  ): Promise<boolean> {
    return add(this.#lvols, row, { patch, span });
  }

  addSnapshot(
    row: Pick<SnapshotRow, "id" | "generation">,
    patch: SnapshotStatusPatch,
    span: Span | undefined,
  ): Promise<boolean> {
    return add(this.#snapshots, row, { patch, span });
  }

  addDisk(
    row: Pick<DiskRow, "id" | "generation">,
    patch: DiskStatusPatch,
    span: Span | undefined,
  ): Promise<boolean> {
    return add(this.#disks, row, { patch, span });
  }

  insertDisk(row: DiskRow, span: Span | undefined): Promise<boolean> {
    return add(this.#inserts, row, { patch: row, span });
  }

  addController(
    row: Pick<ControllerRow, "id" | "generation">,
    patch: ControllerStatusPatch,
    span: Span | undefined,
  ): Promise<boolean> {
    return add(this.#controllers, row, { patch, span });
  }

  insertController(row: ControllerRow, span: Span | undefined): Promise<boolean> {
    return add(this.#newControllers, row, { patch: row, span });
  }

  restoreLvol(row: LvolRow): Promise<boolean> {
    return add(this.#restored, row, { patch: row, span: undefined });
  }

  /** Takes all entries. */
  take(): StatusEntries {
    const entries = {
      targetProcess: this.#targetProcess,
      inserts: [...this.#inserts.values()],
      restored: [...this.#restored.values()],
      lvols: [...this.#lvols.values()],
      snapshots: [...this.#snapshots.values()],
      disks: [...this.#disks.values()],
      newControllers: [...this.#newControllers.values()],
      controllers: [...this.#controllers.values()],
    };
    this.#inserts = new Map();
    this.#restored = new Map();
    this.#lvols = new Map();
    this.#snapshots = new Map();
    this.#disks = new Map();
    this.#newControllers = new Map();
    this.#controllers = new Map();
    this.#targetProcess = undefined;
    this.#taken = objectEntries(entries);
    return entries;
  }

  /**
   * No transaction can be made: tells each waiting loop that its record is not applied. What is
   * recorded stays queued, and so does what the transaction in flight may yet apply.
   */
  endWaits(): void {
    const queued = this.#maps().flatMap((map): ObjectEntry[] => [...map.values()]);
    for (const { waiting } of [...queued, ...this.#taken]) {
      for (const resolve of waiting.splice(0)) resolve(false);
    }
  }

  /**
   * Puts back the entries of a failed transaction; newer records of the same object override them.
   */
  putBack(entries: StatusEntries): void {
    restore(this.#inserts, entries.inserts);
    restore(this.#restored, entries.restored);
    restore(this.#lvols, entries.lvols);
    restore(this.#snapshots, entries.snapshots);
    restore(this.#disks, entries.disks);
    restore(this.#newControllers, entries.newControllers);
    restore(this.#controllers, entries.controllers);
    this.#targetProcess ??= entries.targetProcess;
  }
}

/** Entries as complete rows; those whose generation is not the row's are left out. */
export function statusBatch(entries: StatusEntries, rows: Rows): StatusBatch {
  const { inserts, restored } = entries;
  const lvols = patched(entries.lvols, (id) => rows.lvol(id));
  const snapshots = patched(entries.snapshots, (id) => rows.snapshots.get(id));
  const ends = ({ before, row }: { readonly before: Deletable; readonly row: Deletable }) =>
    before.deleteTime === undefined && row.deleteTime !== undefined;
  return {
    newDisks: inserts.map(({ patch }) => patch),
    restored: restored.map(({ patch }) => patch),
    lvols: lvols.map(({ row }) => row),
    snapshots: snapshots.map(({ row }) => row),
    disks: patched(entries.disks, (id) => rows.disk(id)).map(({ row }) => row),
    newControllers: entries.newControllers.map(({ patch }) => patch),
    controllers: patched(entries.controllers, (id) => rows.controller(id)).map(({ row }) => row),
    ended: [...lvols.filter(ends), ...snapshots.filter(ends)].map(({ row }) => row),
  };
}

type Deletable = { readonly deleteTime: Date | undefined };

function patched<Patch extends object, Row extends Patch & { readonly generation: bigint }>(
  entries: readonly Entry<Patch>[],
  rowOf: (id: string) => Row | undefined,
): readonly { readonly before: Row; readonly row: Row }[] {
  return entries.flatMap(({ id, generation, patch }) => {
    const before = rowOf(id);
    if (before === undefined || before.generation !== generation) return [];
    return [{ before, row: { ...before, ...patch } }];
  });
}

/** Tells each waiting loop whether its record was applied. */
export function settle(entries: StatusEntries, applied: ReadonlySet<string> = new Set()): void {
  for (const { id, waiting } of objectEntries(entries)) {
    for (const resolve of waiting) resolve(applied.has(id));
  }
}

function add<Patch extends object>(
  queue: Map<string, Entry<Patch>>,
  row: { readonly id: string; readonly generation: bigint },
  { patch, span }: { readonly patch: Patch; readonly span: Span | undefined },
): Promise<boolean> {
  const spans = span === undefined ? [] : [span];
  return new Promise((resolve) => {
    const entry = queue.get(row.id);
    if (entry !== undefined && entry.generation === row.generation) {
      entry.patch = { ...entry.patch, ...patch };
      entry.waiting.push(resolve);
      entry.spans.push(...spans);
      return;
    }
    for (const resolveOutdated of entry?.waiting ?? []) resolveOutdated(false);
    for (const outdated of entry?.spans ?? []) endSpan(outdated);
    const { id, generation } = row;
    queue.set(id, { id, generation, patch, waiting: [resolve], spans });
  });
}

function restore<Patch extends object>(
  queue: Map<string, Entry<Patch>>,
  entries: readonly Entry<Patch>[],
): void {
  for (const old of entries) {
    const newer = queue.get(old.id);
    if (newer === undefined) {
      queue.set(old.id, old);
    } else if (newer.generation === old.generation) {
      newer.patch = { ...old.patch, ...newer.patch };
      newer.waiting.push(...old.waiting);
    } else {
      for (const resolve of old.waiting) resolve(false);
    }
  }
}
