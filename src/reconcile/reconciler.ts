// Composes the session with the target, the disks, the drivers and the loops, and wakes objects
// when rows, observations or the write mode change. loops.ts lists the loops.
import type { Logger } from "pino";
import type { Config } from "../config.ts";
import type { DiskRow, DiskReadiness } from "../model/disk.ts";
import type { LvolRow } from "../model/lvol.ts";
import type { SpdkClient } from "../spdk/client.ts";
import type { SpdkConnection } from "../spdk/connection.ts";
import type { PendingContext } from "../model/pending-op.ts";
import type { Fence } from "../store/fence.ts";
import type { RowChange, Rows } from "../store/rows.ts";
import type { Writer } from "../store/writer.ts";
import type { Kernel } from "../sysfs/kernel.ts";
import type { Instruments } from "../telemetry/instruments.ts";
import { Disks } from "./disk/disks.ts";
import { Driver } from "./engine/driver.ts";
import type { LoopStatus, Moment } from "./engine/kind.ts";
import type { DiskView } from "./disk/view.ts";
import { ConnectedHosts } from "./target/connected-hosts.ts";
import { diskKind, permits, volumeKind, type Act } from "./kinds.ts";
import { Lanes } from "./engine/lanes.ts";
import { nextSteps } from "./next-steps.ts";
import { NewVolumes } from "./lvol/new-volumes.ts";
import { orphanCalls, type OrphanCalls } from "./lvol/orphan-calls.ts";
import { Observed, type ObservedChange } from "./target/observed.ts";
import { Orphans } from "./target/orphans.ts";
import { ReturnedLvols } from "./target/returned-lvols.ts";
import type { DiskStep, VolumeStep } from "./steps.ts";
import { TargetSession, type TargetStatus } from "./target/session.ts";
import { UnknownOutcomes } from "./target/unknown-outcomes.ts";
import { Verification } from "./verify.ts";
import { volumeView, type VolumePlanView, type VolumeViewSource } from "./lvol/view.ts";

export type ReconcilerOptions = {
  readonly config: Config;
  readonly rows: Rows;
  readonly writer: Writer;
  readonly kernel: Kernel;
  readonly connection: SpdkConnection;
  readonly spdk: SpdkClient;
  readonly fence: Fence;
  /** How long a request of an earlier agent may still be running in the same incarnation. */
  readonly graceMs: number;
  /** The interval in which the target's events are polled. */
  readonly eventsMs: number;
  /** After that long with an unknown outcome, what may be sent twice is sent again. */
  readonly repeatMs: number;
  readonly log: Logger;
  readonly instruments: Instruments;
};

export type PartStatus = { readonly ok: boolean; readonly reason: string; readonly since: Date };

export class Reconciler {
  readonly orphans: OrphanCalls;
  readonly #options: ReconcilerOptions;
  readonly #listeners = new Set<() => void>();
  readonly #observed: Observed;
  readonly #outcomes: UnknownOutcomes;
  readonly #newVolumes: NewVolumes;
  readonly #lanes = new Lanes();
  readonly #source: VolumeViewSource;
  readonly #disks: Disks;
  readonly #volumeDriver: Driver<VolumePlanView, VolumeStep>;
  readonly #diskDriver: Driver<DiskView, DiskStep>;
  readonly #session: TargetSession;
  readonly #verification: Verification;
  readonly #unsubscribe: DisposableStack;
  #rowsLoaded = false;
  #graceUntil = new Date(0);
  #graceOfEpoch: bigint | undefined;
  #graceTimer: NodeJS.Timeout | undefined;

  constructor(options: ReconcilerOptions) {
    const { config, rows, writer, log, fence } = options;
    this.#options = options;
    const writeMode = () => fence.writeMode;
    const pending = (now: Date) => this.#pending(now);
    const observed = new Observed((change) => this.#onObserved(change));
    this.#observed = observed;
    const outcomes = new UnknownOutcomes((nqn) => this.#onOutcomeKnown(nqn));
    this.#outcomes = outcomes;
    this.#source = {
      rows,
      observed,
      outcomes,
      isolation: config.isolation,
      reconnectGraceMs: config.reconnectGraceMs,
      listenAddresses: () => config.listenAddresses,
      pending,
    };
    const afterLoss = () => this.#session.afterLoss();
    const lanes = this.#lanes;
    const newVolumes = new NewVolumes(() => fence.epoch);
    this.#newVolumes = newVolumes;
    const returned = new ReturnedLvols({
      ...options,
      writeMode,
      onRestored: () => this.#session.scanSoon(),
    });
    const orphans = new Orphans({ ...options, ...config, observed, returned });
    const target = { observed, orphans, lanes, outcomes, afterLoss, writeMode, pending };
    const shared = { ...options, ...target, returned, newVolumes };
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
    this.#volumeDriver = new Driver(volumes, log, instruments);
    this.#diskDriver = new Driver(
      diskKind(this.#disks, rows, writer, mayPerform),
      log,
      instruments,
    );
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
      onReady: () => this.#beginGrace(),
    });
    this.#verification = new Verification({
      rows,
      observed,
      disksListed: () => this.#disks.listed,
      inFlight: (id) => this.#diskDriver.inFlight(id),
    });
    this.#unsubscribe = new DisposableStack();
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
    return this.#lanes.counts;
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
    await this.#disks.stop();
    await Promise.all([this.#diskDriver.stop(signal), this.#volumeDriver.stop(signal)]);
    await this.#session[Symbol.asyncDispose]();
  }

  #onObserved({ kind, id }: ObservedChange): void {
    if (kind === "lvol") this.#volumeDriver.wake(id);
    else this.#wakeDisk(id);
    this.#options.rows.touch(id);
    for (const listener of this.#listeners) listener();
  }

  #onRows(changes: readonly RowChange[]): void {
    const { rows } = this.#options;
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
      if (change.created && this.#observed.incarnation !== undefined) {
        // The volume was created by this commit, so nothing of it exists yet and no read is needed.
        this.#observed.setLvol(id, { kind: "absent" });
        this.#observed.setSubsystem(id, { kind: "absent" });
      }
      const row = rows.lvol(id);
      if (row === undefined) this.#observed.forgetVolume(id);
      this.#newVolumes.follow(id, { created: change.created, row });
      // A host that was revoked is gone only once a read from now on shows it.
      if (row !== undefined && change.revoked) this.#observed.expireSubsystem(id);
      this.#volumeDriver.retryIfIntentChanged(id, row?.generation);
      // A failed delete may leave old bytes in free clusters, which the disk's row has to record.
      if (row?.pendingOp !== undefined) this.#diskDriver.wake(row.diskId);
    }
    if (this.#rowsLoaded || rows.node === undefined) return;
    this.#rowsLoaded = true;
    this.#disks.scanKernelNow();
  }

  /** Requests whose answers were lost and that may still be running. */
  get unknownOutcomes(): number {
    return this.#outcomes.count;
  }

  /** An operator found out what became of the lost requests on a volume's subsystem: their methods. */
  resolveOutcome(row: LvolRow): readonly string[] {
    return this.#outcomes.end(row.nqn);
  }

  #onOutcomeKnown(nqn: string): void {
    const row = this.#options.rows.lvolByNqn(nqn);
    if (row === undefined) return;
    // What was read meanwhile may have been read before the lost request had its effect.
    this.#observed.expireSubsystem(row.id);
    this.#volumeDriver.retrySoon(row.id);
  }

  #permits(act: Act): boolean {
    return permits(this.#options.fence.writeMode, act);
  }

  #pending(now: Date): PendingContext {
    const { fence } = this.#options;
    return {
      incarnation: this.#observed.incarnation,
      epoch: fence.epoch,
      now,
      graceUntil: this.#graceUntil,
      earlierMayRun: this.#observed.earlierMayRun,
    };
  }

  #onFence(): void {
    const { fence, log } = this.#options;
    if (fence.writeMode !== "read-only") this.#session.onWriteMode();
    this.#disks.scanKernelNow();
    if (fence.writeMode === "read-write" && this.#observed.incarnation !== undefined) {
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
    const { graceMs, fence } = this.#options;
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
    const { rows, fence } = this.#options;
    const { incarnation } = this.#observed;
    // Date.now() may still be a fraction of a millisecond before graceUntil, and no second wake
    // follows: mark the grace as over.
    this.#graceUntil = new Date(0);
    for (const { id, pendingOp, lvolUuid, deleteRequestedTime, deleteTime } of rows.lvols()) {
      const mayHaveEnded =
        pendingOp !== undefined &&
        (pendingOp.epoch !== fence.epoch || pendingOp.run !== incarnation);
      const mayHaveBegun = lvolUuid === undefined && deleteRequestedTime !== undefined;
      if (mayHaveEnded || (mayHaveBegun && deleteTime === undefined)) {
        this.#observed.setLvol(id, undefined);
      }
    }
    this.#wakeAll();
  }

  /** Wakes a disk and its volumes: their plans depend on the state of the disk. */
  #wakeDisk(id: string): void {
    this.#diskDriver.wake(id);
    for (const volume of this.#options.rows.lvolIdsOn(id)) this.#volumeDriver.wake(volume);
  }

  #wakeAll(): void {
    const { rows } = this.#options;
    this.#volumeDriver.retryAllNow();
    this.#diskDriver.retryAllNow();
    for (const row of rows.lvols()) this.#volumeDriver.wake(row.id);
    for (const row of rows.disks()) this.#diskDriver.wake(row.id);
    for (const listener of this.#listeners) listener();
  }
}

/** Whether a disk's row changed in a column that plans of its volumes depend on. */
function concernsVolumes(before: DiskRow | undefined, now: DiskRow | undefined): boolean {
  return (
    before?.state !== now?.state ||
    before?.lvsUuid !== now?.lvsUuid ||
    before?.freeSpace !== now?.freeSpace
  );
}
