// Puts the loops to work: who observes, who plans, who is woken by what. This file is the wiring;
// loops.ts is the table of contents.
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
import { Driver, type LoopStatus } from "./engine/driver.ts";
import type { DiskView } from "./disk/view.ts";
import { ConnectedHosts } from "./target/connected-hosts.ts";
import { diskKind, permits, volumeKind, type Act } from "./kinds.ts";
import { Lanes } from "./engine/lanes.ts";
import { nextSteps } from "./next-steps.ts";
import { Observed, type ObservedChange } from "./target/observed.ts";
import type { DiskStep, VolumeStep } from "./steps.ts";
import { TargetSession, type TargetStatus } from "./target/session.ts";
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
  /** How long what an earlier agent sent may still be running on a target that lives on. */
  readonly graceMs: number;
  /** How often the target is asked what happened to it. */
  readonly eventsMs: number;
  readonly log: Logger;
  readonly instruments: Instruments;
};

export type PartStatus = { readonly ok: boolean; readonly reason: string; readonly since: Date };

export class Reconciler {
  readonly #options: ReconcilerOptions;
  readonly #listeners = new Set<() => void>();
  readonly #observed: Observed;
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
    this.#source = {
      rows,
      observed,
      isolation: config.isolation,
      listenAddresses: () => config.listenAddresses,
      pending,
    };
    const afterLoss = () => this.#session.afterLoss();
    const lanes = this.#lanes;
    const shared = { ...options, observed, lanes, afterLoss, writeMode, pending };
    this.#disks = new Disks({
      ...shared,
      wake: (id) => this.#wakeDisk(id),
      scanAll: (options) => this.#session.scanAll(options),
    });
    const mayTake = (act: Act) => permits(fence.writeMode, act);
    const steps = { ...shared, lostStore: (id: string) => observed.setDisk(id, undefined) };
    const { instruments, spdk } = options;
    const connectedHosts = new ConnectedHosts({ spdk, rows });
    const volumes = {
      ...volumeKind(this.#source, writer, steps, mayTake),
      first: (id: string) => connectedHosts.has(id),
    };
    this.#volumeDriver = new Driver(volumes, log, instruments);
    this.#diskDriver = new Driver(diskKind(this.#disks, rows, writer, mayTake), log, instruments);
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

  /** Everything was looked at once since the agent started; stays true while the target is away. */
  get verified(): boolean {
    return this.#verification.done;
  }

  volumeView(row: LvolRow): VolumePlanView {
    return volumeView(this.#source, row, { now: new Date(), inFlight: false });
  }

  /** What the loops see of a volume and would do with it now; nothing is done. */
  planOfVolume(row: LvolRow) {
    const inFlight = this.#volumeDriver.inFlight(row.id);
    const view = volumeView(this.#source, row, { now: new Date(), inFlight });
    return {
      view,
      inFlight,
      steps: nextSteps(this.#volumeDriver.planned(view), (act) => this.#permits(act)),
    };
  }

  planOfDisk(row: DiskRow) {
    const inFlight = this.#diskDriver.inFlight(row.id);
    const view = this.#disks.view(row, { now: new Date(), inFlight });
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

  /** Steps that wait for their lanes, and steps that hold them. */
  get lanes(): { readonly waiting: number; readonly running: number } {
    return this.#lanes.counts;
  }

  /** Calls listener when something was seen, until the returned function is called. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Hands out nothing more and waits for the steps in flight until the signal. */
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
        // What is promised on it changes with every volume, and is no other volume's business.
        if (concernsVolumes(change.before, now)) this.#wakeDisk(id);
        continue;
      }
      if (change.created && this.#observed.incarnation !== undefined) {
        // Never tried, so nothing of it can be there: the first attempt needs no look.
        this.#observed.setLvol(id, { kind: "absent" });
        this.#observed.setSubsystem(id, { kind: "absent" });
      }
      const row = rows.lvol(id);
      this.#volumeDriver.retryIfIntentChanged(id, row?.generation);
      // A delete that failed leaves its disk in doubt, which the disk's row has to say.
      if (row?.pendingOp !== undefined) this.#diskDriver.wake(row.diskId);
    }
    if (this.#rowsLoaded || rows.node === undefined) return;
    this.#rowsLoaded = true;
    this.#disks.scanKernelNow();
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
    };
  }

  #onFence(): void {
    const { fence, log } = this.#options;
    if (fence.writeMode !== "read-only") this.#session.onWriteMode();
    this.#disks.scanKernelNow();
    if (fence.writeMode === "read-write" && this.#observed.incarnation !== undefined) {
      // Disks that were met while nothing could be written down about them.
      this.#disks.rescanTarget().catch((error: unknown) => {
        log.warn({ err: error }, "disks on the target cannot be listed");
      });
    }
    const { epoch } = fence;
    if (epoch === this.#graceOfEpoch) this.#wakeAll();
    else this.#beginGrace();
  }

  /** The target is known, or this agent leads: from now on earlier agents' requests run out. */
  #beginGrace(): void {
    const { graceMs, fence } = this.#options;
    // A lease that lapsed and was renewed was nobody else's: the grace goes on as it began.
    this.#graceOfEpoch = fence.epoch;
    this.#graceUntil = new Date(Date.now() + graceMs);
    clearTimeout(this.#graceTimer);
    this.#graceTimer = setTimeout(() => this.#endGrace(), graceMs);
    this.#graceTimer.unref();
    this.#wakeAll();
  }

  /** What earlier agents had sent has ended: what it did is looked at, not sent a second time. */
  #endGrace(): void {
    const { rows, fence } = this.#options;
    // The clock may be a fraction of a millisecond behind the timer, and nobody looks again.
    this.#graceUntil = new Date(0);
    for (const { id, pendingOp, lvolUuid, deleteRequestedTime, deleteTime } of rows.lvols()) {
      const mayHaveEnded = pendingOp !== undefined && pendingOp.epoch !== fence.epoch;
      const mayHaveBegun = lvolUuid === undefined && deleteRequestedTime !== undefined;
      if (mayHaveEnded || (mayHaveBegun && deleteTime === undefined)) {
        this.#observed.setLvol(id, undefined);
      }
    }
    this.#wakeAll();
  }

  /** A disk that changes hands changes what its volumes can do. */
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

/** Whether what volumes plan by has changed in the row of their disk. */
function concernsVolumes(before: DiskRow | undefined, now: DiskRow | undefined): boolean {
  return (
    before?.state !== now?.state ||
    before?.lvsUuid !== now?.lvsUuid ||
    before?.freeSpace !== now?.freeSpace
  );
}
