// Composes the session with the target, the disks, the drivers and the loops, and wakes objects
// when rows, observations or the write mode change. loops.ts lists the loops.
import type { DiskRow, DiskReadiness } from "../model/disk.ts";
import type { LvolRow } from "../model/lvol.ts";
import type { OutcomeSubject } from "../model/unknown-outcome.ts";
import type { PendingContext } from "../model/pending-op.ts";
import type { RowChange } from "../store/rows.ts";
import { Disks } from "./disk/disks.ts";
import { Driver } from "./engine/driver.ts";
import type { LoopStatus, Moment } from "./engine/kind.ts";
import { Suspects, type Suspect } from "./engine/suspects.ts";
import { concernsVolumes, type DiskView } from "./disk/view.ts";
import type { ReconcilerOptions } from "./reconciler-options.ts";
import { sharedParts, type SharedParts } from "./shared-parts.ts";
import { ConnectedHosts } from "./target/connected-hosts.ts";
import { diskKind, permits, volumeKind, type Act } from "./kinds.ts";
import { nextSteps } from "./next-steps.ts";
import { orphanCalls, type OrphanCalls } from "./lvol/orphan-calls.ts";
import type { ObservedChange } from "./target/observed.ts";
import type { DiskStep, VolumeStep } from "./steps.ts";
import { TargetSession, type TargetStatus } from "./target/session.ts";
import type { UnknownOutcomeOf } from "./target/unknown-outcomes.ts";
import { Verification } from "./verify.ts";
import { volumeView, type VolumePlanView, type VolumeViewSource } from "./lvol/view.ts";

export type PartStatus = { readonly ok: boolean; readonly reason: string; readonly since: Date };

export class Reconciler {
  readonly orphans: OrphanCalls;
  readonly #listeners = new Set<() => void>();
  readonly #shared: SharedParts;
  readonly #source: VolumeViewSource;
  readonly #disks: Disks;
  readonly #volumeDriver: Driver<VolumePlanView, VolumeStep>;
  readonly #diskDriver: Driver<DiskView, DiskStep>;
  readonly #session: TargetSession;
  readonly #verification: Verification;
  readonly #suspects: Suspects;
  readonly #unsubscribe: DisposableStack;
  #rowsLoaded = false;
  #graceUntil = new Date(0);
  #graceOfEpoch: bigint | undefined;
  #graceTimer: NodeJS.Timeout | undefined;

  constructor(options: ReconcilerOptions) {
    const { config, rows, writer, log, fence, connection } = options;
    const suspects = new Suspects(log);
    this.#suspects = suspects;
    const shared = sharedParts(options, {
      pending: (now) => this.#pending(now),
      afterLoss: () => this.#session.afterLoss(),
      onObserved: (change) => this.#onObserved(change),
      onOutcomeKnown: (id, of) => this.#onOutcomeKnown(id, of),
      onRestored: () => this.#session.scanSoon(),
    });
    const { observed } = shared;
    this.#shared = shared;
    this.#source = {
      ...shared,
      isolation: config.isolation,
      reconnectGraceMs: config.reconnectGraceMs,
      listenAddresses: () => config.listenAddresses,
    };
    const diskReadiness = (row: DiskRow) => this.diskReadiness(row);
    this.orphans = orphanCalls({ ...shared, nqnPrefix: config.nqnPrefix, diskReadiness });
    this.#disks = new Disks({
      ...shared,
      wake: (id) => this.#wakeDisk(id),
      scanAll: (options) => this.#session.scanAll(options),
    });
    const mayPerform = (act: Act) => permits(fence.writeMode, act);
    const steps = { ...shared, lostStore: (id: string) => observed.setDisk(id, undefined) };
    const { instruments, spdk } = options;
    const connectedHosts = new ConnectedHosts({ spdk, rows, observed });
    const volumes = {
      ...volumeKind(this.#source, writer, steps, mayPerform),
      first: (id: string) => connectedHosts.has(id),
    };
    this.#volumeDriver = new Driver(volumes, log, instruments, suspects);
    const disks = diskKind(this.#disks, rows, writer, mayPerform);
    this.#diskDriver = new Driver(disks, log, instruments, suspects);
    this.#session = new TargetSession({
      ...shared,
      ...config,
      connectedHosts,
      trtype: config.listenAddresses[0]?.trtype ?? "TCP",
      disks: {
        scan: (bdevs) => this.#disks.scanTargetDisks(bdevs),
        apply: (disks) => this.#disks.applyTargetScan(disks),
        ensureFabricDisksAttached: (disks) => this.#disks.ensureFabricDisksAttached(disks),
      },
      scanDisks: () => this.#disks.rescanTarget(),
      recordProcess: (targetProcess) => writer.recordTargetProcess(targetProcess),
      onReady: (ready) => {
        suspects.identified(ready);
        this.#beginGrace();
      },
    });
    this.#verification = new Verification({
      rows,
      observed,
      disksListed: () => this.#disks.listed,
      inFlight: (id) => this.#diskDriver.inFlight(id),
    });
    this.#unsubscribe = new DisposableStack();
    this.#unsubscribe.defer(connection.onDisconnected(() => suspects.disconnected()));
    this.#unsubscribe.defer(rows.subscribe((changes) => this.#onRows(changes)));
    this.#unsubscribe.defer(fence.onChange(() => this.#onFence()));
  }

  start(): void {
    this.#volumeDriver.start();
    this.#diskDriver.start();
    this.#disks.scanKernelNow();
  }

  get target(): TargetStatus {
    return this.#session.status;
  }

  get kernelStatus(): PartStatus {
    return this.#disks.kernelStatus;
  }

  /**
   * Every object was observed once since the agent started; stays true when the target disconnects.
   */
  get verified(): boolean {
    return this.#verification.done;
  }

  volumeView(row: LvolRow): VolumePlanView {
    const inFlight = this.#volumeDriver.inFlight(row.id);
    return volumeView(this.#source, row, this.#moment(row, inFlight));
  }

  #moment({ id, failures }: LvolRow, inFlight: boolean): Moment {
    return { now: new Date(), inFlight, failures: this.#volumeDriver.failures(id, failures) };
  }

  /** The view of a volume and the steps that its loops plan from it; nothing is dispatched. */
  planOfVolume(row: LvolRow) {
    const inFlight = this.#volumeDriver.inFlight(row.id);
    const view = volumeView(this.#source, row, this.#moment(row, inFlight));
    return {
      view,
      inFlight,
      steps: nextSteps(this.#volumeDriver.planned(view), (act) => this.#permits(act)),
    };
  }

  planOfDisk(row: DiskRow) {
    const inFlight = this.#diskDriver.inFlight(row.id);
    const failures = this.#diskDriver.failures(row.id, row.failures);
    const view = this.#disks.view(row, { now: new Date(), inFlight, failures });
    return {
      view,
      inFlight,
      steps: nextSteps(this.#diskDriver.planned(view), (act) => this.#permits(act)),
    };
  }

  diskReadiness(row: DiskRow): DiskReadiness {
    return this.#disks.diskReadiness(row);
  }

  loops(): readonly LoopStatus[] {
    return [...this.#disks.loops(), ...this.#diskDriver.status, ...this.#volumeDriver.status];
  }

  /** How many steps wait for their lanes, and how many hold them. */
  get lanes(): { readonly waiting: number; readonly running: number } {
    return this.#shared.lanes.counts;
  }

  /**
   * Calls listener after each change of the observed state, until the returned function is called.
   */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Stops planning and waits for the steps in flight, or until the signal aborts. */
  async stop(signal: AbortSignal): Promise<void> {
    this.#unsubscribe.dispose();
    clearTimeout(this.#graceTimer);
    this.#suspects.close();
    await this.#disks.stop();
    await Promise.all([this.#diskDriver.stop(signal), this.#volumeDriver.stop(signal)]);
    await this.#session[Symbol.asyncDispose]();
  }

  #onObserved({ kind, id }: ObservedChange): void {
    if (kind === "lvol") this.#volumeDriver.wake(id);
    else this.#wakeDisk(id);
    this.#shared.rows.touch(id);
    for (const listener of this.#listeners) listener();
  }

  #onRows(changes: readonly RowChange[]): void {
    const { rows } = this.#shared;
    for (const change of changes) {
      const { id } = change;
      if (change.kind === "disk") {
        const now = rows.disk(id);
        this.#diskDriver.retryIfIntentChanged(id, now?.generation);
        // promisedBytes changes with every volume on the disk, and no plan of another volume uses
        // it.
        if (concernsVolumes(change.before, now)) this.#wakeDisk(id);
        continue;
      }
      if (change.created && this.#shared.observed.incarnation !== undefined) {
        // The volume was created by this commit, so nothing of it exists yet and no read is needed.
        this.#shared.observed.setLvol(id, { kind: "absent" });
        this.#shared.observed.setSubsystem(id, { kind: "absent" });
      }
      const row = rows.lvol(id);
      if (row === undefined) this.#shared.observed.forgetVolume(id);
      this.#shared.newVolumes.follow(id, { created: change.created, row });
      // A host that was revoked is gone only once a read from now on shows it.
      if (row !== undefined && change.revoked) this.#shared.observed.expireSubsystem(id);
      this.#volumeDriver.retryIfIntentChanged(id, row?.generation);
      // A failed delete may leave old bytes in free clusters, which the disk's row has to record.
      if (row?.pendingOp !== undefined) this.#diskDriver.wake(row.diskId);
    }
    if (this.#rowsLoaded || rows.node === undefined) return;
    this.#rowsLoaded = true;
    this.#disks.scanKernelNow();
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
    return this.#shared.outcomes.resolve(id);
  }

  /** What was read meanwhile may have been read before the lost change had its effect. */
  #onOutcomeKnown(id: string, of: OutcomeSubject): void {
    if (of === "disk") {
      this.#disks.rescanTarget().catch((error: unknown) => {
        this.#shared.log.warn({ err: error }, "cannot list the disks on the SPDK target");
      });
      this.#diskDriver.retrySoon(id);
      return;
    }
    if (of === "subsystem") this.#shared.observed.expireSubsystem(id);
    else this.#shared.observed.setLvol(id, undefined);
    this.#volumeDriver.retrySoon(id);
  }

  #permits(act: Act): boolean {
    return permits(this.#shared.fence.writeMode, act);
  }

  #pending(now: Date): PendingContext {
    const { fence } = this.#shared;
    return {
      incarnation: this.#shared.observed.incarnation,
      epoch: fence.epoch,
      now,
      graceUntil: this.#graceUntil,
      earlierMayRun: this.#shared.observed.earlierMayRun,
    };
  }

  #onFence(): void {
    const { fence, log } = this.#shared;
    if (fence.writeMode !== "read-only") this.#session.onWriteMode();
    this.#disks.scanKernelNow();
    if (fence.writeMode === "read-write" && this.#shared.observed.incarnation !== undefined) {
      // Disks found in another write mode could not be recorded: scan again.
      this.#disks.rescanTarget().catch((error: unknown) => {
        log.warn({ err: error }, "cannot list the disks on the SPDK target");
      });
    }
    const { epoch } = fence;
    if (epoch === this.#graceOfEpoch) this.#wakeAll();
    else this.#beginGrace();
  }

  /**
   * Starts the grace: the target was identified or a new lease epoch began. Requests that earlier
   * agents sent before are no longer running when it ends.
   */
  #beginGrace(): void {
    const { graceMs, fence } = this.#shared;
    // A lease that lapsed and was renewed in the same epoch belonged to no other agent meanwhile:
    // it does not restart the grace.
    this.#graceOfEpoch = fence.epoch;
    this.#graceUntil = new Date(Date.now() + graceMs);
    clearTimeout(this.#graceTimer);
    this.#graceTimer = setTimeout(() => this.#endGrace(), graceMs);
    this.#graceTimer.unref();
    this.#wakeAll();
  }

  /** The grace ended: reads the lvols that requests of earlier agents may have changed. */
  #endGrace(): void {
    const { rows, fence } = this.#shared;
    const { incarnation } = this.#shared.observed;
    // Date.now() may still be a fraction of a millisecond before graceUntil, and no second wake
    // follows: mark the grace as over.
    this.#graceUntil = new Date(0);
    for (const { id, pendingOp, lvolUuid, deleteRequestedTime, deleteTime } of rows.lvols()) {
      const mayHaveEnded =
        pendingOp !== undefined &&
        (pendingOp.epoch !== fence.epoch || pendingOp.run !== incarnation);
      const mayHaveBegun = lvolUuid === undefined && deleteRequestedTime !== undefined;
      if (mayHaveEnded || (mayHaveBegun && deleteTime === undefined)) {
        this.#shared.observed.setLvol(id, undefined);
      }
    }
    this.#wakeAll();
  }

  /** Wakes a disk and its volumes: their plans depend on the state of the disk. */
  #wakeDisk(id: string): void {
    this.#diskDriver.wake(id);
    for (const volume of this.#shared.rows.lvolIdsOn(id)) this.#volumeDriver.wake(volume);
  }

  #wakeAll(): void {
    const { rows } = this.#shared;
    this.#volumeDriver.retryAllNow();
    this.#diskDriver.retryAllNow();
    for (const row of rows.lvols()) this.#volumeDriver.wake(row.id);
    for (const row of rows.disks()) this.#diskDriver.wake(row.id);
    for (const listener of this.#listeners) listener();
  }
}
