// The drivers of volumes, snapshots and disks, and which objects are planned when others change: a disk
// wakes what lies on it, and a member of a clone family wakes the others.
import type { Logger } from "pino";
import { hasDrive, type ControllerRow } from "../model/controller.ts";
import type { DiskRow } from "../model/disk.ts";
import type { LvolRow } from "../model/lvol.ts";
import type { SnapshotRow } from "../model/snapshot.ts";
import type { RowChange } from "../store/rows.ts";
import type { Instruments } from "../telemetry/instruments.ts";
import type { Disks } from "./disk/disks.ts";
import type { ControllerView } from "./controller/view.ts";
import { concernsControllers, concernsVolumes, type DiskView } from "./disk/view.ts";
import { Driver } from "./engine/driver.ts";
import type { FailedStep, Kind, LoopStatus, Moment } from "./engine/kind.ts";
import type { Suspects } from "./engine/suspects.ts";
import type { Act } from "./kinds.ts";
import { snapshotView, type SnapshotPlanView } from "./lvol/snapshot-view.ts";
import { volumeView, type VolumePlanView, type VolumeViewSource } from "./lvol/view.ts";
import { nextSteps } from "./next-steps.ts";
import type { SharedParts } from "./shared-parts.ts";
import type { ControllerStep, DiskStep, SnapshotStep, VolumeStep } from "./steps.ts";
import type { ObservedChange, ObservedObject } from "./target/observed.ts";

export type DriversOptions = {
  readonly shared: Pick<SharedParts, "rows" | "observed" | "newVolumes">;
  readonly source: VolumeViewSource;
  readonly disks: Pick<Disks, "view">;
  readonly volumeKind: Kind<VolumePlanView, VolumeStep>;
  readonly snapshotKind: Kind<SnapshotPlanView, SnapshotStep>;
  readonly diskKind: Kind<DiskView, DiskStep>;
  readonly controllerKind: Kind<ControllerView, ControllerStep>;
  readonly permits: (act: Act) => boolean;
  readonly log: Logger;
  readonly instruments: Instruments;
  readonly suspects: Suspects;
  /** What is shown of an object may have changed, though neither its row nor its observation has. */
  readonly announce: (object: ObservedObject) => void;
  /** A step has failed. */
  readonly failed: (kind: RowChange["kind"], failure: FailedStep) => void;
};

export class Drivers {
  readonly #options: DriversOptions;
  readonly #volumes: Driver<VolumePlanView, VolumeStep>;
  readonly #snapshots: Driver<SnapshotPlanView, SnapshotStep>;
  readonly #disks: Driver<DiskView, DiskStep>;
  readonly #controllers: Driver<ControllerView, ControllerStep>;

  constructor(options: DriversOptions) {
    const { log, instruments, suspects } = options;
    this.#options = options;
    const telling = (kind: RowChange["kind"]) => ({
      failed: (failure: FailedStep) => options.failed(kind, failure),
    });
    const volumes = { ...options.volumeKind, ...telling("lvol") };
    const snapshots = { ...options.snapshotKind, ...telling("snapshot") };
    const disks = { ...options.diskKind, ...telling("disk") };
    const controllers = { ...options.controllerKind, ...telling("controller") };
    this.#controllers = new Driver(controllers, log, instruments, suspects);
    this.#volumes = new Driver(volumes, log, instruments, suspects);
    this.#snapshots = new Driver(snapshots, log, instruments, suspects);
    this.#disks = new Driver(disks, log, instruments, suspects);
  }

  get #all() {
    return [this.#controllers, this.#disks, this.#volumes, this.#snapshots] as const;
  }

  start(): void {
    for (const driver of this.#all) driver.start();
  }

  get status(): readonly LoopStatus[] {
    return this.#all.flatMap(({ status }) => status);
  }

  /** On the disk, or on a controller of its drive. */
  diskInFlight(id: string): boolean {
    const own = this.controllersOf(id);
    return this.#disks.inFlight(id) || own.some((address) => this.#controllers.inFlight(address));
  }

  /** Addresses of the controllers of a disk; none if the id is of something else. */
  controllersOf(id: string): readonly string[] {
    const { rows } = this.#options.shared;
    const disk = rows.disk(id);
    const isOn = (row: ControllerRow) => disk !== undefined && hasDrive(row, disk);
    return [...rows.controllers()].filter(isOn).map((row) => row.id);
  }

  wakeController(address: string): void {
    this.#controllers.wake(address);
  }

  #wakeControllers(): void {
    for (const { id } of this.#options.shared.rows.controllers()) this.#controllers.wake(id);
  }

  /** Stops planning and waits for the steps in flight, or until the signal aborts. */
  async stop(signal: AbortSignal): Promise<void> {
    await Promise.all(this.#all.map((driver) => driver.stop(signal)));
  }

  volumeView(row: LvolRow): VolumePlanView {
    const inFlight = this.#volumes.inFlight(row.id);
    const moment = momentOf(this.#volumes.failures(row.id, row.failures), inFlight);
    return volumeView(this.#options.source, row, moment);
  }

  snapshotView(row: SnapshotRow): SnapshotPlanView {
    const inFlight = this.#snapshots.inFlight(row.id);
    const moment = momentOf(this.#snapshots.failures(row.id, row.failures), inFlight);
    return snapshotView(this.#options.source, row, moment);
  }

  /** The view of a volume and the steps that its loops plan from it; nothing is dispatched. */
  planOfVolume(row: LvolRow) {
    const view = this.volumeView(row);
    return {
      view,
      inFlight: view.inFlight,
      steps: nextSteps(this.#volumes.planned(view), this.#options.permits),
    };
  }

  /** As planOfVolume. */
  planOfSnapshot(row: SnapshotRow) {
    const view = this.snapshotView(row);
    return {
      view,
      inFlight: view.inFlight,
      steps: nextSteps(this.#snapshots.planned(view), this.#options.permits),
    };
  }

  /** As planOfVolume. */
  planOfDisk(row: DiskRow) {
    const inFlight = this.#disks.inFlight(row.id);
    const moment = momentOf(this.#disks.failures(row.id, row.failures), inFlight);
    const view = this.#options.disks.view(row, moment);
    return {
      view,
      inFlight,
      steps: nextSteps(this.#disks.planned(view), this.#options.permits),
    };
  }

  onObserved({ kind, id }: ObservedChange): void {
    switch (kind) {
      case "lvol":
        this.#volumes.wake(id);
        this.#wakeReleasing(id);
        return this.#wakeSnapshotsDue(id);
      case "snapshot":
        return this.#snapshots.wake(id);
      case "disk":
        this.#wakeControllers();
        return this.wakeDisk(id);
      case "space":
      case "health":
        return this.#disks.wake(id);
    }
  }

  onRow(change: RowChange): void {
    switch (change.kind) {
      case "lvol":
        return this.#onVolumeRow(change);
      case "snapshot":
        return this.#onSnapshotRow(change);
      case "disk": {
        const now = this.#options.shared.rows.disk(change.id);
        this.#disks.retryIfIntentChanged(change.id, now?.generation);
        // promisedBytes changes with every volume on the disk, and no plan of another volume uses it.
        if (concernsVolumes(change.before, now)) this.wakeDisk(change.id);
        if (concernsControllers(change.before, now)) this.#wakeControllers();
        return;
      }
      case "controller": {
        const { rows } = this.#options.shared;
        const generation = rows.controller(change.id)?.generation;
        this.#controllers.retryIfIntentChanged(change.id, generation);
        for (const disk of rows.disks()) if (disk.transport === "PCIe") this.#disks.wake(disk.id);
        // Those that are taken together wait for each other.
        this.#wakeControllers();
      }
    }
  }

  #onVolumeRow({ id, created, revoked, before }: Extract<RowChange, { kind: "lvol" }>): void {
    const { rows, observed, newVolumes } = this.#options.shared;
    const row = rows.lvol(id);
    // The lvol of an adopted volume was there before it.
    const isNew = created && row?.lvolUuid === undefined;
    if (isNew && observed.incarnation !== undefined) {
      // The volume was created by this commit, so nothing of it exists yet and no read is needed.
      observed.setLvol(id, { kind: "absent" });
      observed.setSubsystem(id, { kind: "absent" });
    }
    if (row === undefined) observed.forgetVolume(id);
    newVolumes.follow(id, { created, row });
    observed.checkDiscards(id);
    // A host that was revoked is gone only once a read from now on shows it.
    if (row !== undefined && revoked) observed.expireSubsystem(id);
    this.#volumes.retryIfIntentChanged(id, row?.generation);
    if (concernsFamily(before, row)) this.#wakeFamily(id);
    // A failed delete may leave old bytes in free clusters, which the disk's row has to record.
    if (row?.pendingOp !== undefined) this.#disks.wake(row.diskId);
  }

  #onSnapshotRow({ id, before }: Extract<RowChange, { kind: "snapshot" }>): void {
    const { rows, observed } = this.#options.shared;
    const row = rows.snapshots.get(id);
    if (row === undefined) observed.forgetSnapshot(id);
    this.#snapshots.retryIfIntentChanged(id, row?.generation);
    if (concernsFamily(before, row)) this.#wakeFamily(id);
    if (row?.pendingOp !== undefined) this.#disks.wake(row.diskId);
  }

  /** A disk that is to be released is detached once nothing of it is exported. */
  #wakeReleasing(id: string): void {
    const { rows, observed } = this.#options.shared;
    const disk = rows.disk(rows.lvol(id)?.diskId ?? "");
    if (disk?.wanted !== "release" || observed.volume(id).subsystem?.kind !== "absent") return;
    this.#disks.wake(disk.id);
    for (const address of this.controllersOf(disk.id)) this.#controllers.wake(address);
  }

  /** A snapshot is taken of a volume that was observed. */
  #wakeSnapshotsDue(id: string): void {
    const { rows } = this.#options.shared;
    const row = rows.lvol(id);
    if (row === undefined || rows.familySize(row.familyRoot) < 2) return;
    for (const snapshot of rows.family(row.familyRoot).snapshots) {
      const isDue = snapshot.sourceLvolId === id && snapshot.lvolUuid === undefined;
      if (isDue && snapshot.deleteTime === undefined) this.#snapshots.wake(snapshot.id);
    }
  }

  /** Plans of the other members of a clone family depend on the row of each of them. */
  #wakeFamily(id: string): void {
    const { rows } = this.#options.shared;
    const row = rows.lvol(id) ?? rows.snapshots.get(id);
    if (row === undefined || rows.familySize(row.familyRoot) < 2) return;
    const { lvols, snapshots } = rows.family(row.familyRoot);
    for (const member of lvols) {
      if (member.deleteTime === undefined && member.id !== id) this.#volumes.wake(member.id);
    }
    for (const member of snapshots) {
      if (member.deleteTime !== undefined || member.id === id) continue;
      this.#snapshots.wake(member.id);
      // A snapshot shows its clones.
      this.#options.announce({ kind: "snapshot", id: member.id });
    }
  }

  /** Wakes a disk and what lies on it: its plans depend on the state of the disk. */
  wakeDisk(id: string): void {
    const { announce, shared } = this.#options;
    const { rows } = shared;
    this.#disks.wake(id);
    announce({ kind: "disk", id });
    for (const volume of rows.lvolIdsOn(id)) {
      this.#volumes.wake(volume);
      announce({ kind: "lvol", id: volume });
    }
    for (const snapshot of rows.snapshots.idsOn(id)) {
      this.#snapshots.wake(snapshot);
      announce({ kind: "snapshot", id: snapshot });
    }
  }

  wakeAll(): void {
    const { rows } = this.#options.shared;
    for (const driver of this.#all) driver.retryAllNow();
    for (const row of rows.lvols()) this.#volumes.wake(row.id);
    for (const row of rows.snapshots.all()) this.#snapshots.wake(row.id);
    for (const row of rows.disks()) this.#disks.wake(row.id);
    this.#wakeControllers();
  }

  /** The outcome of a lost change of this object is known. */
  retrySoon(id: string): void {
    const { rows } = this.#options.shared;
    if (rows.snapshots.get(id) !== undefined) this.#snapshots.retrySoon(id);
    else if (rows.disk(id) !== undefined) this.#disks.retrySoon(id);
    else if (rows.controller(id) !== undefined) this.#controllers.retrySoon(id);
    else this.#volumes.retrySoon(id);
  }
}

/** What the plans of a volume or a snapshot depend on in the rows of its relatives. */
const OF_RELATIVES = [
  "pendingOp",
  "parentId",
  "lvolUuid",
  "observedSizeBytes",
  "failed",
  "deleteRequestedTime",
  "deleteTime",
] as const satisfies readonly (keyof LvolRow & keyof SnapshotRow)[];

function concernsFamily<Row extends LvolRow | SnapshotRow>(
  before: Row | undefined,
  now: Row | undefined,
): boolean {
  if (before === undefined || now === undefined) return true;
  if (OF_RELATIVES.some((field) => before[field] !== now[field])) return true;
  return "cloning" in before && "cloning" in now && before.cloning !== now.cloning;
}

function momentOf(failures: Moment["failures"], inFlight: boolean): Moment {
  return { now: new Date(), inFlight, failures };
}
