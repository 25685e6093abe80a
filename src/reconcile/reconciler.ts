// Composes the session with the target, the disks, the drivers and the loops, and wakes objects
// when rows, observations or the write mode change. loops.ts lists the loops.
import type { DiscardGuard } from "../model/discards.ts";
import type { DiskRow, DiskReadiness } from "../model/disk.ts";
import type { CreationRequest, LvolRow } from "../model/lvol.ts";
import type { SnapshotRow } from "../model/snapshot.ts";
import type { OutcomeSubject } from "../model/unknown-outcome.ts";
import type { PendingContext } from "../model/pending-op.ts";
import type { Lvstore } from "../spdk/replies-lvol.ts";
import type { CallerOptions } from "../spdk/rpc.ts";
import type { RowChange } from "../store/rows.ts";
import { Disks } from "./disk/disks.ts";
import { Drivers, type DriversOptions } from "./drivers.ts";
import { Grace } from "./grace.ts";
import type { LoopStatus } from "./engine/kind.ts";
import { Suspects, type Suspect } from "./engine/suspects.ts";
import type { ReconcilerOptions } from "./reconciler-options.ts";
import { sessionDisks } from "./session-disks.ts";
import { sharedParts, type SharedParts } from "./shared-parts.ts";
import { ConnectedHosts } from "./target/connected-hosts.ts";
import { controllerKind, diskKind, permits, snapshotKind, volumeKind, type Act } from "./kinds.ts";
import type { IostatLoop } from "./target/iostat.ts";
import type { ScanOptions } from "./target/full-scan.ts";
import { diskAdoptions, type DiskAdoptions } from "./disk/adopt-disk.ts";
import { orphanCalls, type OrphanCalls } from "./lvol/orphan-calls.ts";
import type { ObservedChange, ObservedObject } from "./target/observed.ts";
import type { SnapshotPlanView } from "./lvol/snapshot-view.ts";
import { forgetUnsettled } from "./target/after-grace.ts";
import { TargetSession } from "./target/session.ts";
import type { TargetStatus } from "./target/status.ts";
import type { UnknownOutcomeOf } from "./target/unknown-outcomes.ts";
import { restored, type Restored } from "./restored.ts";
import { Verification } from "./verify.ts";
import type { VolumePlanView } from "./lvol/view.ts";

export type PartStatus = { readonly ok: boolean; readonly reason: string; readonly since: Date };

export class Reconciler {
  readonly orphans: OrphanCalls;
  readonly adoptions: DiskAdoptions;
  readonly iostat: IostatLoop;
  readonly #listeners = new Set<(object: ObservedObject | undefined) => void>();
  readonly #failureListeners = new Set<DriversOptions["failed"]>();
  readonly #restartListeners = new Set<() => void>();
  readonly #shared: SharedParts;
  readonly #disks: Disks;
  readonly #drivers: Drivers;
  readonly #session: TargetSession;
  readonly #verification: Verification;
  readonly #suspects: Suspects;
  readonly #unsubscribe: DisposableStack;
  #rowsLoaded = false;
  readonly #grace: Grace;

  constructor(options: ReconcilerOptions) {
    const { config, rows, writer, log, fence, spdk } = options;
    const suspects = (this.#suspects = new Suspects(log));
    const shared = sharedParts(options, {
      pending: (now) => this.#pending(now),
      afterLoss: () => this.#session.afterLoss(),
      onObserved: (change) => this.#onObserved(change),
      onOutcomeKnown: (id, of) => this.#onOutcomeKnown(id, of),
      onRestored: () => this.#session.scanSoon(),
      scanDisks: () => this.#disks.rescanTarget(),
      onPulse: () => this.#wakeAll(),
    });
    const { observed } = shared;
    this.#shared = shared;
    this.#grace = new Grace(shared.graceMs, () => this.#endGrace());
    const { listenAddresses } = config;
    const source = { ...shared, ...config, listenAddresses: () => listenAddresses };
    const diskReadiness = (row: DiskRow) => this.diskReadiness(row);
    this.orphans = orphanCalls({ ...shared, ...config, diskReadiness });
    const scanAll = (options: ScanOptions) => this.#session.scanAll(options);
    this.adoptions = diskAdoptions({ ...shared, scanAll });
    this.#disks = new Disks({
      ...shared,
      wake: (id) => this.#drivers.wakeDisk(id),
      wakeController: (address) => this.#drivers.wakeController(address),
      scanAll,
      onLocated: (id) => this.#onLocated(id),
    });
    this.iostat = shared.iostat;
    const mayPerform = (act: Act) => permits(fence.writeMode, act);
    const steps = { ...shared, lostStore: (id: string) => observed.setDisk(id, undefined) };
    const connectedHosts = new ConnectedHosts({ spdk, rows, observed });
    this.#drivers = new Drivers({
      ...options,
      shared,
      source,
      disks: this.#disks,
      volumeKind: {
        ...volumeKind(source, writer, steps, mayPerform),
        first: (id: string) => connectedHosts.has(id),
      },
      snapshotKind: snapshotKind(source, writer, steps, mayPerform),
      diskKind: diskKind(this.#disks, rows, writer, mayPerform),
      controllerKind: controllerKind(this.#disks, rows, writer, mayPerform),
      permits: mayPerform,
      suspects,
      announce: (change) => this.#announce(change),
      failed: (...told) => this.#failureListeners.forEach((listener) => listener(...told)),
    });
    this.#session = new TargetSession({
      ...shared,
      ...config,
      connectedHosts,
      trtype: config.listenAddresses[0]?.trtype ?? "TCP",
      disks: sessionDisks(this.#disks, shared, (id) => this.#drivers.wakeDisk(id)),
      recordProcess: (targetProcess) => writer.recordTargetProcess(targetProcess),
      onReady: (ready) => {
        suspects.identified(ready);
        if (ready.otherProcess) for (const listener of this.#restartListeners) listener();
        this.#beginGrace();
      },
    });
    this.#verification = new Verification({
      rows,
      observed,
      disksListed: () => this.#disks.listed,
      inFlight: (id) => this.#drivers.diskInFlight(id),
    });
    this.#unsubscribe = this.#subscribe(options);
  }

  #subscribe({ connection, rows, fence }: ReconcilerOptions): DisposableStack {
    const unsubscribe = new DisposableStack();
    unsubscribe.use(this.#shared.pulse);
    unsubscribe.use(this.#shared.returned);
    unsubscribe.defer(
      connection.onDisconnected(() => {
        this.#suspects.disconnected();
        this.#announce(undefined);
      }),
    );
    unsubscribe.defer(rows.subscribe((changes) => this.#onRows(changes)));
    unsubscribe.defer(fence.onChange(() => this.#onFence()));
    return unsubscribe;
  }

  start(): void {
    this.#drivers.start();
    this.#shared.health.start();
    this.#disks.scanKernelNow();
  }

  get target(): TargetStatus {
    return this.#session.status;
  }

  get kernelStatus(): PartStatus {
    return this.#disks.kernelStatus;
  }

  /** Whether every object was observed once since the agent started. */
  get verification(): Pick<Verification, "done" | "progress"> {
    return this.#verification;
  }

  /** How many exports are back since the target restarted. */
  restored(): Restored {
    return restored(this.#shared);
  }

  /** The target is at work on something that may take long. */
  get targetLoads(): boolean {
    return this.#shared.pulse.loads;
  }

  volumeView(row: LvolRow): VolumePlanView {
    return this.#drivers.volumeView(row);
  }

  snapshotView(row: SnapshotRow): SnapshotPlanView {
    return this.#drivers.snapshotView(row);
  }

  /** The view of a volume and the steps that its loops plan from it; nothing is dispatched. */
  planOfVolume(row: LvolRow) {
    return this.#drivers.planOfVolume(row);
  }

  planOfSnapshot(row: SnapshotRow) {
    return this.#drivers.planOfSnapshot(row);
  }

  planOfDisk(row: DiskRow) {
    return this.#drivers.planOfDisk(row);
  }

  get discardGuard(): DiscardGuard | undefined {
    return this.#shared.observed.discardGuard;
  }

  diskReadiness(row: DiskRow): DiskReadiness {
    return this.#disks.diskReadiness(row);
  }

  /** Who has the vfio group of a function open, looked for now; undefined: nobody but the target. */
  groupUser(address: string): Promise<string | undefined> {
    return this.#disks.controllers.userOfGroup(address);
  }

  /** What calls need of the disks: looks at them, and the LEDs of their slots. */
  get disks(): Pick<Disks, "looks" | "locators"> {
    return this.#disks;
  }

  loops(): readonly LoopStatus[] {
    const { health, iostat } = this.#shared;
    return [...this.#disks.loops(), ...this.#drivers.status, health.status, iostat.status];
  }

  /** How many steps wait for their lanes, and how many hold them. */
  get lanes(): { readonly waiting: number; readonly running: number } {
    return this.#shared.lanes.counts;
  }

  /**
   * Calls listener after each change of what is observed of an object, or of what its state is derived
   * from besides its row (undefined: of every object), until the returned function is called.
   */
  onChange(listener: (object: ObservedObject | undefined) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Calls listener with each failure of a step. */
  onFailure(listener: DriversOptions["failed"]): void {
    this.#failureListeners.add(listener);
  }

  /** Calls listener when the target is back as another process than this agent has worked with. */
  onTargetRestart(listener: () => void): void {
    this.#restartListeners.add(listener);
  }

  /** Stops planning and waits for the steps in flight, or until the signal aborts. */
  async stop(signal: AbortSignal): Promise<void> {
    this.#unsubscribe.dispose();
    this.#grace.stop();
    this.#suspects.close();
    this.iostat.stop();
    this.#shared.health.stop();
    await this.#disks.stop();
    await this.#drivers.stop(signal);
    await this.#session[Symbol.asyncDispose]();
  }

  #onObserved(change: ObservedChange): void {
    this.#drivers.onObserved(change);
    this.#shared.rows.touch(change.id);
    const { kind, id } = change;
    this.#announce(kind === "space" || kind === "health" ? { kind: "disk", id } : { kind, id });
  }

  #onLocated(id: string): void {
    this.#shared.rows.touch(id);
    this.#announce({ kind: "disk", id });
  }

  #announce(object: ObservedObject | undefined): void {
    for (const listener of this.#listeners) listener(object);
  }

  #onRows(changes: readonly RowChange[]): void {
    const { rows } = this.#shared;
    for (const change of changes) this.#drivers.onRow(change);
    if (this.#rowsLoaded || rows.node === undefined) return;
    this.#rowsLoaded = true;
    this.#disks.scanKernelNow();
  }

  /** Free clusters by disk, as the admission of a volume needs them. */
  freeFor(
    asked: Pick<CreationRequest, "sizeBytes" | "thin">,
  ): Promise<ReadonlyMap<string, bigint>> {
    return this.#shared.space.freeFor(asked);
  }

  /** For an explanation; every other answer then shows the same. */
  readStore(diskId: string, uuid: string, options: CallerOptions): Promise<Lvstore | undefined> {
    return this.#shared.space.readStore(diskId, uuid, options);
  }

  /** Steps that may have killed the target. */
  suspects(): readonly Suspect[] {
    return this.#suspects.list();
  }

  /** What was observed of the volume's export no longer counts: it is read again. */
  readExportAgain(id: string): void {
    this.#shared.observed.expireSubsystem(id);
  }

  /** Changes whose answers were lost and that may still be running. */
  unknownOutcomes(): readonly UnknownOutcomeOf[] {
    return this.#shared.outcomes.list();
  }

  /** An operator found out what became of the lost changes of a volume or a disk: their methods. */
  resolveOutcome(id: string): readonly string[] {
    const { outcomes } = this.#shared;
    const controllers = this.#drivers.controllersOf(id);
    return [id, ...controllers].flatMap((one) => outcomes.resolve(one));
  }

  /** What was read meanwhile may have been read before the lost change had its effect. */
  #onOutcomeKnown(id: string, of: OutcomeSubject): void {
    const { rows, observed } = this.#shared;
    if (of === "disk") {
      this.#disks.listings.doubt();
      this.#rescanTarget();
    } else if (of === "subsystem") observed.expireSubsystem(id);
    else if (rows.snapshots.get(id) === undefined) observed.setLvol(id, undefined);
    else observed.setSnapshot(id, undefined);
    this.#drivers.retrySoon(id);
  }

  #pending(now: Date): PendingContext {
    const { fence } = this.#shared;
    return {
      incarnation: this.#shared.observed.incarnation,
      epoch: fence.epoch,
      now,
      graceUntil: this.#grace.until,
      earlierMayRun: this.#shared.observed.earlierMayRun,
    };
  }

  #onFence(): void {
    const { fence } = this.#shared;
    if (fence.writeMode !== "read-only") this.#session.onWriteMode();
    this.#disks.scanKernelNow();
    // Disks found in another write mode could not be recorded: scan again.
    if (fence.writeMode === "read-write") this.#rescanTarget();
    if (this.#grace.isOf(fence.epoch)) this.#wakeAll();
    else this.#beginGrace();
  }

  #beginGrace(): void {
    this.#disks.listings.doubt();
    this.#grace.begin(this.#shared.fence.epoch);
    this.#wakeAll();
  }

  /** The grace ended: reads the disks and the lvols that requests of earlier agents may have changed. */
  #endGrace(): void {
    const { rows, observed, fence } = this.#shared;
    forgetUnsettled(rows, observed, fence.epoch);
    if (!this.#disks.listings.settledByGrace()) this.#rescanTarget();
    this.#wakeAll();
  }

  #rescanTarget(): void {
    if (this.#shared.observed.incarnation === undefined) return;
    this.#disks.rescanTarget().catch((error: unknown) => {
      this.#shared.log.warn({ err: error }, "cannot list the disks on the SPDK target");
    });
  }

  #wakeAll(): void {
    this.#drivers.wakeAll();
    this.#announce(undefined);
  }
}
