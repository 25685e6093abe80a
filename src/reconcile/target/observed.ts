// The observed state: what the target showed in its current incarnation, shared by all loops and by
// reads of the API. An undefined part is unknown, and a loop that needs it reads the object by
// name.
//
// It never keeps an observation beyond the incarnation that it was made in.
import { isDeepStrictEqual } from "node:util";
import type { DiscardGuard } from "../../model/discards.ts";
import type {
  ObservedLvol,
  ObservedSubsystem,
  ObservedVolume,
  PresentLvol,
} from "../../model/lvol.ts";
import type { LvolBdev } from "../../spdk/replies-bdev.ts";
import { partsOf } from "./lvol-alias.ts";
import type { ObservedDisk, ObservedStore } from "./observed-disk.ts";
import type { Subsystem } from "../../spdk/replies-nvmf.ts";

/** Ids of volumes and snapshots whose lvol, or whose subsystem, was observed after a full scan was sent. */
export type ObservedSince = {
  readonly lvols: ReadonlySet<string>;
  readonly subsystems: ReadonlySet<string>;
  /** To be called when the scan was applied, or failed. */
  readonly end: () => void;
};

const NOTHING: ObservedVolume = {
  lvol: undefined,
  lvolTime: undefined,
  subsystem: undefined,
  subsystemStale: false,
  listeningSinceMs: undefined,
  isNewExport: false,
  exportEnded: false,
  connected: undefined,
};

/** Orders reads against what makes observations stale. */
export type ReadMark = number;

/** An object of which something was observed anew. */
export type ObservedObject = { readonly kind: "lvol" | "snapshot" | "disk"; readonly id: string };

/** Of a disk, nothing but its free clusters, or its health, which no plan of a volume depends on. */
export type ObservedPart = { readonly kind: "space" | "health"; readonly id: string };

export type ObservedChange = ObservedObject | ObservedPart;

export class Observed {
  readonly #volumes = new Map<string, ObservedVolume>();
  readonly #snapshots = new Map<string, ObservedLvol>();
  readonly #disks = new Map<string, ObservedDisk>();
  /** By disk: when its store was first seen under its present name. */
  readonly #storesSince = new Map<string, Date>();
  readonly #onChange: (change: ObservedChange) => void;
  /** For each full scan that is not applied yet: the volumes observed since it was sent. */
  readonly #openScans = new Set<{
    readonly lvols: Set<string>;
    readonly subsystems: Set<string>;
  }>();
  /** When each stale subsystem was last marked so, as a count of such events. */
  readonly #staleSince = new Map<string, number>();
  /** Uuids of lvols that the agent has grown and whose event was not seen yet. */
  readonly #ownResizes = new Set<string>();
  #staleEvents = 0;
  /** By disk: the mark of the read that its free clusters are of. */
  readonly #freeReads = new Map<string, ReadMark>();
  #freeReadsBegun = 0;
  #incarnation: string | undefined;
  #silent = false;
  #earlierMayRun = false;
  #since = new Date(0);
  #discardGuard: DiscardGuard | undefined;
  readonly #freeingDisk: (id: string, volume: ObservedVolume) => string | undefined;
  /** By disk: the volumes whose hosts may return clusters to it by discards. */
  readonly #freeing = new Map<string, Set<string>>();

  /** freeingDisk: the disk of a volume whose hosts may return clusters to it. */
  constructor(
    onChange: (change: ObservedChange) => void,
    freeingDisk: (id: string, volume: ObservedVolume) => string | undefined = () => undefined,
  ) {
    this.#onChange = onChange;
    this.#freeingDisk = freeingDisk;
  }

  /** Of the target that is connected, or was last; undefined before the first one. */
  get discardGuard(): DiscardGuard | undefined {
    return this.#discardGuard;
  }

  /** Whether the subsystem of a volume lets its hosts return clusters to the disk. */
  discardsFree(diskId: string): boolean {
    return this.#freeing.has(diskId);
  }

  /** The row of the volume has changed, which may decide whether its hosts' discards free clusters. */
  checkDiscards(id: string): void {
    const volume = this.volume(id);
    // Unknown for a moment: it is as it was.
    if (volume.subsystem === undefined && this.#volumes.has(id)) return;
    const disk = this.#freeingDisk(id, volume);
    for (const [other, ids] of this.#freeing) {
      if (other === disk || !ids.delete(id) || ids.size > 0) continue;
      this.#freeing.delete(other);
      this.#onChange({ kind: "disk", id: other });
    }
    if (disk === undefined) return;
    const ids = this.#freeing.get(disk);
    if (ids !== undefined) {
      ids.add(id);
      return;
    }
    this.#freeing.set(disk, new Set([id]));
    this.#onChange({ kind: "disk", id: disk });
  }

  /** The incarnation of the observations; undefined while the target is disconnected. */
  get incarnation(): string | undefined {
    return this.#incarnation;
  }

  /** Whether the target is connected, was observed, and answers: what was observed may be shown as present. */
  get targetAnswers(): boolean {
    return this.#incarnation !== undefined && !this.#silent;
  }

  /** The target answers nothing, for longer than it may, or answers again. */
  setSilent(silent: boolean): void {
    this.#silent = silent;
  }

  /** When the store of a disk was loaded, under its present name; before: when this incarnation was found. */
  storeSince(diskId: string): Date {
    return this.#storesSince.get(diskId) ?? this.#since;
  }

  /** Whether the incarnation before this one may not have exited. */
  get earlierMayRun(): boolean {
    return this.#earlierMayRun;
  }

  volume(id: string): ObservedVolume {
    return this.#volumes.get(id) ?? NOTHING;
  }

  /** Undefined: unknown. */
  snapshot(id: string): ObservedLvol | undefined {
    return this.#snapshots.get(id);
  }

  disk(id: string): ObservedDisk | undefined {
    return this.#incarnation === undefined ? undefined : this.#disks.get(id);
  }

  /** The target was identified. Clears the observations if this is another incarnation. */
  beginIncarnation(
    incarnation: string,
    facts: {
      readonly earlierMayRun: boolean;
      readonly discardGuard: DiscardGuard;
    },
  ): void {
    const { earlierMayRun, discardGuard } = facts;
    this.#discardGuard = discardGuard;
    // Identified once more on the same connection: nothing has changed.
    if (incarnation === this.#incarnation) return;
    this.#forget();
    this.#since = new Date();
    this.#incarnation = incarnation;
    this.#earlierMayRun = earlierMayRun;
  }

  /**
   * The target disconnected and may restart: clears the observations, which are read again later.
   */
  endIncarnation(): void {
    this.#incarnation = undefined;
    // The reads of an open scan fail with the connection, so it is not applied.
    this.#openScans.clear();
    this.#forget();
  }

  /**
   * A full scan is about to be sent. An lvol or a subsystem that is observed before the scan is
   * applied keeps that observation: it is newer than what the scan shows.
   */
  beginScan(): ObservedSince {
    const observedSince = { lvols: new Set<string>(), subsystems: new Set<string>() };
    this.#openScans.add(observedSince);
    return { ...observedSince, end: () => this.#openScans.delete(observedSince) };
  }

  /** The row of the volume is gone. */
  forgetVolume(id: string): void {
    this.#volumes.delete(id);
    this.#staleSince.delete(id);
    this.checkDiscards(id);
  }

  /** The row of the snapshot is gone. */
  forgetSnapshot(id: string): void {
    this.#snapshots.delete(id);
  }

  setLvol(id: string, lvol: ObservedLvol | undefined): void {
    for (const { lvols } of this.#openScans) lvols.add(id);
    this.#volumes.set(id, { ...this.volume(id), lvol, lvolTime: lvol && new Date() });
    this.checkDiscards(id);
    this.#onChange({ kind: "lvol", id });
  }

  setSnapshot(id: string, lvol: ObservedLvol | undefined): void {
    for (const { lvols } of this.#openScans) lvols.add(id);
    if (lvol === undefined) this.#snapshots.delete(id);
    else this.#snapshots.set(id, lvol);
    this.#onChange({ kind: "snapshot", id });
  }

  /**
   * `readMark`: it was read, by a read that began at that mark and after every change of the subsystem
   * was answered. Without it the observation stays as stale as it was.
   */
  setSubsystem(
    id: string,
    subsystem: ObservedSubsystem | undefined,
    readMark: ReadMark = Number.NEGATIVE_INFINITY,
  ): void {
    for (const { subsystems } of this.#openScans) subsystems.add(id);
    if (readMark >= (this.#staleSince.get(id) ?? 0)) this.#staleSince.delete(id);
    const before = this.volume(id);
    const listening = subsystem?.kind === "present" && subsystem.listeners.length > 0;
    this.#volumes.set(id, {
      ...before,
      subsystem,
      subsystemStale: this.#staleSince.has(id),
      exportEnded: before.exportEnded && subsystem?.kind !== "present",
      listeningSinceMs: listening ? (before.listeningSinceMs ?? performance.now()) : undefined,
    });
    this.checkDiscards(id);
    this.#onChange({ kind: "lvol", id });
  }

  /** The export was made for the first time: nobody can have been connected to it. */
  setNewExport(id: string): void {
    this.#volumes.set(id, { ...this.volume(id), isNewExport: true, connected: [] });
  }

  /** The subsystem was deleted because the volume is being deleted. */
  setExportEnded(id: string): void {
    this.setSubsystem(id, { kind: "absent" });
    this.#volumes.set(id, { ...this.volume(id), exportEnded: true });
  }

  /** The subsystem has to be read again, by a read that begins from now on. */
  expireSubsystem(id: string): void {
    this.#staleEvents += 1;
    this.#staleSince.set(id, this.#staleEvents);
    this.#volumes.set(id, { ...this.volume(id), subsystemStale: true });
    this.#onChange({ kind: "lvol", id });
  }

  /** To be taken when a read begins, and given to setSubsystem with what it showed. */
  get readMark(): ReadMark {
    return this.#staleEvents;
  }

  /** The agent is about to grow the lvol and reads back its size: the event of that shows nothing new. */
  expectResize(lvolUuid: string): void {
    this.#ownResizes.add(lvolUuid);
  }

  /** Whether an event of the lvol is that of the agent's own resize; asked once for each event. */
  wasExpected(lvolUuid: string): boolean {
    return this.#ownResizes.delete(lvolUuid);
  }

  /** Events were missed, or do not come. */
  expectNoResizes(): void {
    this.#ownResizes.clear();
  }

  setConnected(id: string, connected: readonly string[]): void {
    const before = this.volume(id);
    if (isDeepStrictEqual(before.connected, connected)) return;
    this.#volumes.set(id, { ...before, connected });
    this.#onChange({ kind: "lvol", id });
  }

  setDisk(id: string, disk: ObservedDisk | undefined): void {
    const [store, before] = [disk?.store, this.disk(id)?.store];
    if (store === undefined) this.#storesSince.delete(id);
    else if (store.uuid !== before?.uuid || store.name !== before.name) {
      this.#storesSince.set(id, new Date());
    }
    if (disk === undefined) this.#disks.delete(id);
    else this.#disks.set(id, disk);
    this.#onChange({ kind: "disk", id });
  }

  /** To be taken when a read of free clusters begins, and given back with what it showed. */
  beginFreeRead(): ReadMark {
    this.#freeReadsBegun += 1;
    return this.#freeReadsBegun;
  }

  /** Of the free read that began last. */
  get freeReadMark(): ReadMark {
    return this.#freeReadsBegun;
  }

  /** Whether the free clusters of the disk are those of a read that began after the mark. */
  isFreeReadSince(id: string, mark: ReadMark): boolean {
    return (this.#freeReads.get(id) ?? 0) > mark;
  }

  /** Free clusters of a disk's lvstore; of two reads the one that began later counts. */
  setFreeClusters(
    id: string,
    { uuid, freeClusters }: Pick<ObservedStore, "uuid" | "freeClusters">,
    mark: ReadMark,
  ): void {
    const disk = this.disk(id);
    if (disk?.store?.uuid !== uuid || mark < (this.#freeReads.get(id) ?? 0)) return;
    this.#freeReads.set(id, mark);
    if (disk.store.freeClusters === freeClusters) return;
    this.#disks.set(id, { ...disk, store: { ...disk.store, freeClusters } });
    this.#onChange({ kind: "space", id });
  }

  /** The disk as a scan showed it whose reads began at the mark. */
  setScannedDisk(id: string, scanned: ObservedDisk | undefined, mark: ReadMark): void {
    const before = this.disk(id);
    const free = before?.store?.freeClusters;
    const sameStore = scanned?.store !== undefined && scanned.store.uuid === before?.store?.uuid;
    if (scanned?.store === undefined || !sameStore || free === undefined) {
      if (!isDeepStrictEqual(scanned, before)) this.setDisk(id, scanned);
      return;
    }
    const unchanged = { ...scanned, store: { ...scanned.store, freeClusters: free } };
    if (!isDeepStrictEqual(unchanged, before)) this.setDisk(id, unchanged);
    this.setFreeClusters(id, scanned.store, mark);
  }

  #forget(): void {
    const volumes = [...this.#volumes.keys()];
    const snapshots = [...this.#snapshots.keys()];
    const disks = [...this.#disks.keys()];
    this.#volumes.clear();
    this.#snapshots.clear();
    this.#disks.clear();
    this.#storesSince.clear();
    this.#ownResizes.clear();
    this.#staleSince.clear();
    this.#freeReads.clear();
    this.#freeing.clear();
    for (const id of disks) this.#onChange({ kind: "disk", id });
    for (const id of volumes) this.#onChange({ kind: "lvol", id });
    for (const id of snapshots) this.#onChange({ kind: "snapshot", id });
  }
}

/** The observation of an lvol as read from the target. */
export function observedLvol({
  uuid,
  aliases,
  sizeBytes,
  rateLimits,
  lvol,
}: Pick<LvolBdev, "uuid" | "aliases" | "sizeBytes" | "rateLimits" | "lvol">): PresentLvol {
  return {
    kind: "present",
    uuid,
    lvsUuid: lvol.storeUuid,
    sizeBytes,
    thin: lvol.thin,
    allocatedClusters: lvol.allocatedClusters,
    parent: lvol.baseSnapshot,
    name: partsOf({ aliases }).name,
    limits: {
      rwIops: rateLimits.rwIosPerSec,
      rwMibPerSecond: rateLimits.rwMbytesPerSec,
      readMibPerSecond: rateLimits.rMbytesPerSec,
      writeMibPerSecond: rateLimits.wMbytesPerSec,
    },
  };
}

/** The observation of a subsystem as read from the target; undefined was not found. */
export function observedSubsystem(subsystem: Subsystem | undefined): ObservedSubsystem {
  if (subsystem === undefined) return { kind: "absent" };
  return {
    kind: "present",
    serialNumber: subsystem.serialNumber ?? "",
    allowAnyHost: subsystem.allowAnyHost,
    dmrsl: subsystem.dmrsl,
    hosts: subsystem.hosts,
    listeners: subsystem.listenAddresses,
    namespaces: subsystem.namespaces,
  };
}
