// The disks of the node: lists them in the kernel and on the target, matches them with their rows,
// inserts rows for new ones, gathers evidence and admits by policy. The pure part of the loop
// disk-discover is discover.ts; perform.ts performs the steps of disk-init.
import type { Logger } from "pino";
import type { Config } from "../../config.ts";
import { newDiskRow, type DiskRow, type DiskReadiness } from "../../model/disk.ts";
import type { Evidence } from "../../model/evidence.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { Bdev } from "../../spdk/replies-bdev.ts";
import type { PendingContext } from "../../model/pending-op.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Rows } from "../../store/rows.ts";
import type { Writer } from "../../store/writer.ts";
import type { Kernel } from "../../sysfs/kernel.ts";
import { listNvme, type NvmeTopology } from "../../sysfs/nvme.ts";
import type { AfterLoss } from "../engine/attempt.ts";
import { findInKernel, type KernelFindings } from "./discover.ts";
import { readiness } from "./record.ts";
import { performDiskStep, type ClaimMemory } from "./perform.ts";
import type { DiskView } from "./view.ts";
import { disksOnTarget, type FoundDisks } from "../target/disks-on-target.ts";
import type { LoopStatus, Moment, PassReason, StepResult } from "../engine/kind.ts";
import type { ScanOptions } from "../target/full-scan.ts";
import { FabricDisks } from "./fabric-disks.ts";
import type { Lanes } from "../engine/lanes.ts";
import { KernelStatus } from "./kernel-status.ts";
import { StoreLoads } from "./store-loads.ts";
import type { Observed } from "../target/observed.ts";
import type { UnknownOutcomes } from "../target/unknown-outcomes.ts";
import type { DiskStep } from "../steps.ts";
import type { Slices } from "./slices.ts";
import { hostsMayFree, mayBeDirty, spaceOnTarget } from "./free-space.ts";
import { Admissions } from "./admissions.ts";
import { KERNEL_SCAN_MS } from "../../limits.ts";

export type DisksOptions = {
  readonly config: Config;
  readonly rows: Rows;
  readonly writer: Writer;
  readonly kernel: Kernel;
  readonly spdk: SpdkClient;
  readonly observed: Observed;
  readonly lanes: Lanes;
  readonly log: Logger;
  readonly afterLoss: AfterLoss;
  readonly outcomes: UnknownOutcomes;
  readonly slices: Slices;
  readonly pending: (now: Date) => PendingContext;
  readonly writeMode: () => WriteMode;
  readonly wake: (id: string) => void;
  readonly scanAll: (options: ScanOptions) => Promise<void>;
};

export class Disks {
  readonly #options: DisksOptions;
  readonly #fabric: FabricDisks;
  readonly #storeLoads: StoreLoads;
  readonly #claims: ClaimMemory = { blank: new Set(), empty: new Set() };
  readonly #admissions: Admissions;
  #findings: KernelFindings = { disks: new Map(), duplicates: new Set(), withoutSerial: [] };
  #topology: NvmeTopology | undefined;
  #scannedIncarnation: string | undefined;
  readonly #kernelStatus = new KernelStatus();
  #passes = 0;
  #lastPass:
    { readonly reason: PassReason; readonly time: Date; readonly durationMs: number } | undefined;
  #timer: NodeJS.Timeout | undefined;
  #scanning: Promise<void> | undefined;
  #closed = false;

  constructor(options: DisksOptions) {
    this.#options = options;
    const { scanAll } = options;
    this.#admissions = new Admissions({
      ...options,
      find: (id) => this.#findings.disks.get(id),
      topology: () => this.#topology,
      entryOf: (row) => this.#fabric.entryOf(row),
    });
    const rescan = () => scanAll({ sizes: true, subsystems: false });
    const onEnded = () => {
      for (const { id } of options.rows.disks()) options.wake(id);
    };
    this.#storeLoads = new StoreLoads({ ...options, rescan, onEnded });
    this.#fabric = new FabricDisks({
      ...options,
      list: async () => (await this.scanTargetDisks()).found,
      rescan: () => this.rescanTarget(),
      admit: (id) => this.#admissions.admitByPolicy(id),
    });
  }

  get kernelStatus() {
    return this.#kernelStatus.value;
  }

  /** Whether the disks were listed both in the kernel and in this incarnation of the target. */
  get listed(): boolean {
    return this.#topology !== undefined && this.#targetListed;
  }

  get #targetListed(): boolean {
    const { incarnation } = this.#options.observed;
    return incarnation !== undefined && incarnation === this.#scannedIncarnation;
  }

  /** Scans the kernel's disks now instead of at the next interval. */
  scanKernelNow(): void {
    this.#requestKernelScan(this.#scanning === undefined ? "start" : "wake");
  }

  #requestKernelScan(reason: PassReason): void {
    clearTimeout(this.#timer);
    const before = this.#scanning ?? Promise.resolve();
    this.#scanning = before.then(() => this.#kernelPass(reason));
  }

  async stop(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#fabric.stop();
    await this.#scanning;
  }

  loops(): readonly LoopStatus[] {
    return [
      {
        name: "disk-discover",
        passes: this.#passes,
        lastReason: this.#lastPass?.reason,
        steps: 0,
        lastPassTime: this.#lastPass?.time,
        lastDurationMs: this.#lastPass?.durationMs ?? 0,
        lastError: this.kernelStatus.ok ? undefined : this.kernelStatus.reason,
      },
    ];
  }

  view(row: DiskRow, moment: Moment): DiskView {
    const { observed, config, rows, pending, writeMode } = this.#options;
    const inKernel = this.#findings.disks.get(row.id);
    const onTarget = observed.disk(row.id);
    return {
      row,
      ...moment,
      targetConnected: observed.incarnation !== undefined,
      targetListed: this.#targetListed,
      onTarget,
      space: spaceOnTarget(row, onTarget, config.spaceThresholds),
      spaceThresholds: config.spaceThresholds,
      inKernel: inKernel && { ...inKernel, evidence: this.#admissions.looks.evidence(row.id) },
      kernelListed: this.#topology !== undefined,
      fabric: this.#fabric.entryOf(row),
      duplicate: this.#findings.duplicates.has(row.id),
      claimedBlank: this.#claims.blank.has(row.id),
      loadEnded: this.#storeLoads.ended(observed.disk(row.id)),
      foundEmpty: this.#claims.empty.has(row.id),
      slices: this.#options.slices.of(row.id),
      fleet: config.fleet,
      pending: pending(moment.now),
      writeMode: writeMode(),
      outcomeUnknown: this.#options.outcomes.of(row.id),
      hostsMayFree: hostsMayFree(rows, observed, row.id),
      mayBeDirty: mayBeDirty(rows, observed, row.id),
    };
  }

  diskReadiness(row: DiskRow): DiskReadiness {
    const { failures } = row;
    const view = this.view(row, { now: new Date(), inFlight: false, failures });
    const { outcomeUnknown, space, hostsMayFree: discardsFree } = view;
    return { ...readiness(view), outcomeUnknown, space, discardsFree };
  }

  async perform(view: DiskView, step: DiskStep): Promise<StepResult> {
    const scanDisks = () => this.rescanTarget();
    const foundInClaim = (evidence: readonly Evidence[]) =>
      this.#admissions.foundInClaim(view.row.id, evidence);
    const context = { ...this.#options, claims: this.#claims, scanDisks, foundInClaim };
    const result = await performDiskStep(context, view, step);
    if (step.kind === "claim-disk" || step.kind === "release-function") {
      // Even if the step failed, the disk may be bound to another driver now.
      this.#admissions.looks.forget(view.row.id);
      await this.#syncKernelDisks();
    }
    return result;
  }

  /** Scans and applies the disks on the target only. */
  async rescanTarget(): Promise<void> {
    const { incarnation } = this.#options.observed;
    const disks = await this.scanTargetDisks();
    if (this.#options.observed.incarnation !== incarnation) return;
    this.applyTargetScan(disks);
    this.ensureFabricDisksAttached(disks);
  }

  /** Matches the disks found on the target with rows and stores them as observations. */
  applyTargetScan({ found, inTransition, freeRead }: FoundDisks): void {
    const { rows, observed } = this.#options;
    const byId = new Map(found.map((disk) => [disk.id, disk]));
    for (const row of rows.disks()) {
      const now = byId.get(row.id);
      if (inTransition.has(row.id) && now !== undefined && now.store === undefined) continue;
      observed.setScannedDisk(row.id, now, freeRead);
    }
    this.#scannedIncarnation = observed.incarnation;
    for (const row of rows.disks()) this.#options.wake(row.id);
    this.#expectLoads();
  }

  #expectLoads(): void {
    const { rows, observed } = this.#options;
    // Of every disk, also of one without a recorded store: a store that is still being loaded does not
    // keep SPDK from formatting the disk.
    const attached = [...rows.disks()].flatMap(({ id }) => observed.disk(id) ?? []);
    this.#storeLoads.expect(attached.filter(({ store }) => store === undefined));
  }

  /**
   * Attaches and admits the fabric disks of the configuration that have no row. Runs in the
   * background: attaching takes long, and neither a scan nor a stop may wait for it.
   */
  ensureFabricDisksAttached({ found }: FoundDisks): void {
    const attached = this.#fabric.ensureAttached(found).then(() => this.#expectLoads());
    attached.catch((error: unknown) => {
      this.#options.log.warn(
        { err: error },
        "cannot attach the fabric disks of the configuration, retrying",
      );
    });
  }

  async scanTargetDisks(bdevs?: Promise<readonly Bdev[]>): Promise<FoundDisks> {
    const { spdk, rows, config, lanes, observed } = this.#options;
    const freeRead = observed.beginFreeRead();
    const changing = ({ id }: DiskRow) => lanes.busy({ kind: "disk", disk: id, mode: "shared" });
    const inTransition = new Set([...rows.disks()].filter(changing).map(({ id }) => id));
    const nsids = new Set([1, ...config.fabricDisks.map(({ nsid }) => nsid)]);
    for (const row of rows.disks()) nsids.add(row.nsid);
    return { found: await disksOnTarget(spdk, nsids, bdevs), inTransition, freeRead };
  }

  async #kernelPass(reason: PassReason): Promise<void> {
    const started = performance.now();
    try {
      await this.#syncKernelDisks();
      await this.#inspectAndAdmit();
      this.#kernelStatus.set(true, "");
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#kernelStatus.set(false, `cannot list the NVMe disks of the kernel: ${message}`);
    }
    this.#retryPostponed().catch((error: unknown) => {
      this.#options.log.debug(
        { err: error },
        "postponed scan or admission of disks failed, retrying",
      );
    });
    this.#passes += 1;
    this.#lastPass = { reason, time: new Date(), durationMs: performance.now() - started };
    clearTimeout(this.#timer);
    if (this.#closed) return;
    this.#timer = setTimeout(() => this.#requestKernelScan("period"), KERNEL_SCAN_MS);
    this.#timer.unref();
  }

  /**
   * Retries, once per kernel scan, what failed or was not permitted when it was due: the list of
   * the disks on the target, and the admission of fabric disks.
   */
  async #retryPostponed(): Promise<void> {
    const { observed } = this.#options;
    if (this.#closed) return;
    if (observed.incarnation !== undefined && !this.#targetListed) await this.rescanTarget();
    await this.#fabric.admitKnown();
  }

  async #syncKernelDisks(): Promise<void> {
    const { kernel, rows, writer, config, wake, log } = this.#options;
    const topology = await listNvme(kernel);
    const before = this.#findings;
    this.#findings = findInKernel(topology, rows.disks());
    const first = this.#topology === undefined;
    this.#topology = topology;
    const { disks, duplicates, withoutSerial } = this.#findings;
    if (withoutSerial.length > 0)
      log.debug({ kernel_names: withoutSerial }, "ignoring disks without a serial number");
    if (rows.node === undefined) return;
    const mayInsert = this.#options.writeMode() === "read-write";
    await Promise.all(
      [...disks].map(async ([id, { namespace, address, driver }]) => {
        if (!mayInsert || rows.disk(id) !== undefined || namespace === undefined) return;
        const { serial, model, nsid, sizeBytes, blockSizeBytes: blockSize, kernelName } = namespace;
        const facts = { serial, model, nsid, sizeBytes, blockSize, kernelName };
        const disk = { ...facts, transport: "PCIe", address, driver } as const;
        await writer.insertDisk(newDiskRow(config.nodeId, disk, new Date()));
        log.info({ disk: id, serial, model, address }, "new disk found");
      }),
    );
    for (const row of rows.disks()) {
      const previous = before.disks.get(row.id);
      const current = disks.get(row.id);
      const moved = previous?.driver !== current?.driver || previous?.address !== current?.address;
      if (moved) this.#admissions.looks.forget(row.id);
      if (first || moved || before.duplicates.has(row.id) !== duplicates.has(row.id)) wake(row.id);
    }
  }

  /** Looks at disks that have a kernel driver and are not on the target; ends admissions, and admits. */
  async #inspectAndAdmit(): Promise<void> {
    const { rows, wake, observed } = this.#options;
    await Promise.all(
      [...this.#findings.disks].map(async ([id, { namespace }]) => {
        if (namespace === undefined || rows.disk(id) === undefined) return;
        if (observed.disk(id) !== undefined) return;
        if (this.#admissions.looks.isDue(id)) {
          await this.#admissions.look(id);
          wake(id);
        }
        await this.#admissions.admitByPolicy(id);
      }),
    );
  }

  /** For a call: lists the kernel's disks anew, and looks at one. */
  async lookAt(id: string): Promise<readonly Evidence[] | undefined> {
    const { rows, observed } = this.#options;
    const row = rows.disk(id);
    if (row === undefined || row.transport !== "PCIe" || row.lvsUuid !== undefined)
      return undefined;
    // The claim that this process holds found it so, and nobody else had it since.
    if (this.#claims.blank.has(id)) return [];
    if (observed.disk(id) !== undefined) return undefined;
    await this.#syncKernelDisks();
    const evidence = await this.#admissions.look(id);
    this.#options.wake(id);
    return evidence;
  }
}
