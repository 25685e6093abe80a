// The disks of the node, as the loops need them: found in the kernel and on the target, matched with
// their rows, admitted by policy. disk-discover's pure half is disk-discover.ts; the acts of
// disk-init are disk-steps.ts.
import type { Logger } from "pino";
import { isAllowed, type Config } from "../../config.ts";
import type { DiskRow, DiskReadiness } from "../../model/disk.ts";
import type { Evidence } from "../../model/evidence.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { Bdev } from "../../spdk/replies-bdev.ts";
import type { PendingContext } from "../../model/pending-op.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Rows } from "../../store/rows.ts";
import type { Writer } from "../../store/writer.ts";
import { gatherEvidence } from "../../sysfs/disk-evidence.ts";
import type { Kernel } from "../../sysfs/kernel.ts";
import { listNvme, type NvmeTopology } from "../../sysfs/nvme.ts";
import type { AfterLoss } from "../engine/attempt.ts";
import { admittedByPolicy, findInKernel, newDiskRow, type KernelFindings } from "./discover.ts";
import { diskPhase } from "./record.ts";
import { performDiskStep, type ClaimMemory } from "./perform.ts";
import type { DiskView } from "./view.ts";
import { disksOnTarget, type FoundDisks } from "./disks-on-target.ts";
import type { LoopStatus, PassReason, StepResult } from "../engine/driver.ts";
import type { ScanOptions } from "../target/full-scan.ts";
import { FabricDisks } from "./fabric-disks.ts";
import type { Lanes } from "../engine/lanes.ts";
import { StoreLoads } from "./store-loads.ts";
import type { Observed } from "../target/observed.ts";
import type { DiskStep } from "../steps.ts";
import { mayBeDirty } from "../lvol/view.ts";

/** How often the kernel's disks are listed: a plugged disk cannot wake us through sysfs. */
const KERNEL_SCAN_MS = 5_000;
/** Reading a disk's first and last MiB again, while nothing says that it changed. */
const EVIDENCE_MS = 30_000;

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
  readonly pending: (now: Date) => PendingContext;
  readonly writeMode: () => WriteMode;
  readonly wake: (id: string) => void;
  readonly scanAll: (options: ScanOptions) => Promise<void>;
};

type EvidenceAt = { readonly evidence: readonly Evidence[]; readonly atMs: number };

export class Disks {
  readonly #options: DisksOptions;
  readonly #fabric: FabricDisks;
  readonly #storeLoads: StoreLoads;
  readonly #claims: ClaimMemory = { blank: new Set(), empty: new Set() };
  readonly #evidence = new Map<string, EvidenceAt>();
  #findings: KernelFindings = { disks: new Map(), duplicates: new Set(), withoutSerial: [] };
  #topology: NvmeTopology | undefined;
  #scannedIncarnation: string | undefined;
  #kernelStatus = { ok: false, reason: "not listed yet", since: new Date() };
  #passes = 0;
  #lastPass:
    { readonly reason: PassReason; readonly time: Date; readonly durationMs: number } | undefined;
  #timer: NodeJS.Timeout | undefined;
  #scanning: Promise<void> | undefined;
  #closed = false;

  constructor(options: DisksOptions) {
    this.#options = options;
    const { scanAll } = options;
    const rescan = () => scanAll({ sizes: true, subsystems: false });
    const onEnded = () => {
      for (const { id } of options.rows.disks()) options.wake(id);
    };
    this.#storeLoads = new StoreLoads({ ...options, rescan, onEnded });
    this.#fabric = new FabricDisks({
      ...options,
      list: async () => (await this.scanTargetDisks()).found,
      rescan: () => this.rescanTarget(),
      admit: (id) => this.#admitByPolicy(id),
    });
  }

  get kernelStatus() {
    return this.#kernelStatus;
  }

  /** Whether both the kernel and this run of the target were asked for their disks. */
  get listed(): boolean {
    return this.#topology !== undefined && this.#targetListed;
  }

  get #targetListed(): boolean {
    const { incarnation } = this.#options.observed;
    return incarnation !== undefined && incarnation === this.#scannedIncarnation;
  }

  /** Does not wait for the period: rows were loaded, so what was found can be matched now. */
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
        lastError: this.#kernelStatus.ok ? undefined : this.#kernelStatus.reason,
      },
    ];
  }

  view(row: DiskRow, moment: { readonly now: Date; readonly inFlight: boolean }): DiskView {
    const { observed, config, rows, pending, writeMode } = this.#options;
    const inKernel = this.#findings.disks.get(row.id);
    return {
      row,
      ...moment,
      targetConnected: observed.incarnation !== undefined,
      targetListed: this.#targetListed,
      onTarget: observed.disk(row.id),
      inKernel: inKernel && { ...inKernel, evidence: this.#evidence.get(row.id)?.evidence },
      kernelListed: this.#topology !== undefined,
      fabric: this.#fabric.entryOf(row),
      duplicate: this.#findings.duplicates.has(row.id),
      claimedBlank: this.#claims.blank.has(row.id),
      loadEnded: this.#storeLoads.ended(observed.disk(row.id)),
      foundEmpty: this.#claims.empty.has(row.id),
      fleet: config.fleet,
      pending: pending(moment.now),
      writeMode: writeMode(),
      mayBeDirty: mayBeDirty(rows, row.id, observed.incarnation),
    };
  }

  diskReadiness(row: DiskRow): DiskReadiness {
    const { observed } = this.#options;
    if (observed.incarnation === undefined)
      return { ready: false, reason: "the SPDK target does not answer" };
    const phase = diskPhase(this.view(row, { now: new Date(), inFlight: false }));
    if (phase?.state === "UP" && row.lvsUuid !== undefined) return { ready: true, reason: "" };
    return { ready: false, reason: phase?.stateReason ?? row.stateReason };
  }

  async perform(view: DiskView, step: DiskStep): Promise<StepResult> {
    const scanDisks = () => this.rescanTarget();
    const context = { ...this.#options, claims: this.#claims, scanDisks };
    const result = await performDiskStep(context, view, step);
    if (step.kind === "claim-disk" || step.kind === "release-function") {
      // Whatever came of it, the kernel may show the disk under another driver now.
      this.#evidence.delete(view.row.id);
      await this.#syncKernelDisks();
    }
    return result;
  }

  /** Looks for the disks on the target, and for nothing else. */
  async rescanTarget(): Promise<void> {
    const { incarnation } = this.#options.observed;
    const disks = await this.scanTargetDisks();
    if (this.#options.observed.incarnation !== incarnation) return;
    this.applyTargetScan(disks);
    this.ensureFabricDisksAttached(disks);
  }

  /** Matches what the target was found to have with rows. */
  applyTargetScan({ found, inTransition }: FoundDisks): void {
    const { rows, observed } = this.#options;
    const byId = new Map(found.map((disk) => [disk.id, disk]));
    for (const row of rows.disks()) {
      const before = observed.disk(row.id);
      const now = byId.get(row.id);
      if (inTransition.has(row.id) && now !== undefined && now.store === undefined) continue;
      if (JSON.stringify(now, exact) !== JSON.stringify(before, exact))
        observed.setDisk(row.id, now);
    }
    this.#scannedIncarnation = observed.incarnation;
    for (const row of rows.disks()) this.#options.wake(row.id);
    const expected = [...rows.disks()].filter(({ lvsUuid }) => lvsUuid !== undefined);
    const attached = expected.flatMap(({ id }) => observed.disk(id) ?? []);
    this.#storeLoads.expect(attached.filter(({ store }) => store === undefined));
  }

  /**
   * Attaches and admits what the configuration names and no row does. Nobody waits for it, a stop
   * least of all: attaching takes as long as it takes.
   */
  ensureFabricDisksAttached({ found }: FoundDisks): void {
    this.#fabric.ensureAttached(found).catch((error: unknown) => {
      this.#options.log.warn({ err: error }, "disks of the configuration cannot be met");
    });
  }

  async scanTargetDisks(bdevs?: Promise<readonly Bdev[]>): Promise<FoundDisks> {
    const { spdk, rows, config, lanes } = this.#options;
    const changing = ({ id }: DiskRow) => lanes.busy({ kind: "disk", disk: id, mode: "shared" });
    const inTransition = new Set([...rows.disks()].filter(changing).map(({ id }) => id));
    const nsids = new Set([1, ...config.fabricDisks.map(({ nsid }) => nsid)]);
    for (const row of rows.disks()) nsids.add(row.nsid);
    return { found: await disksOnTarget(spdk, nsids, bdevs), inTransition };
  }

  async #kernelPass(reason: PassReason): Promise<void> {
    const started = performance.now();
    try {
      await this.#syncKernelDisks();
      await this.#inspectAndAdmit();
      this.#setKernelStatus(true, "");
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#setKernelStatus(false, `the kernel's disks cannot be listed: ${message}`);
    }
    this.#finishLeftOver().catch((error: unknown) => {
      this.#options.log.debug({ err: error }, "what was left over is tried again");
    });
    this.#passes += 1;
    this.#lastPass = { reason, time: new Date(), durationMs: performance.now() - started };
    clearTimeout(this.#timer);
    if (this.#closed) return;
    this.#timer = setTimeout(() => this.#requestKernelScan("period"), KERNEL_SCAN_MS);
    this.#timer.unref();
  }

  /**
   * What was cut off between two wakes, an admission that was refused or a list that failed, is done
   * with the period. Costs nothing where there is nothing left.
   */
  async #finishLeftOver(): Promise<void> {
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
      log.debug({ kernel_names: withoutSerial }, "disks without a serial");
    if (rows.node === undefined) return;
    const mayInsert = this.#options.writeMode() === "read-write";
    await Promise.all(
      [...disks].map(async ([id, { namespace, address, driver }]) => {
        if (!mayInsert || rows.disk(id) !== undefined || namespace === undefined) return;
        const { serial, model, nsid, sizeBytes, blockSizeBytes: blockSize, kernelName } = namespace;
        const facts = { serial, model, nsid, sizeBytes, blockSize, kernelName };
        const row = newDiskRow(
          config.nodeId,
          { ...facts, transport: "PCIe", address, driver },
          new Date(),
        );
        await writer.insertDisk(row);
        log.info({ disk: id, serial, model, address }, "disk found");
      }),
    );
    for (const row of rows.disks()) {
      const was = before.disks.get(row.id);
      const is = disks.get(row.id);
      const moved = was?.driver !== is?.driver || was?.address !== is?.address;
      if (moved) this.#evidence.delete(row.id);
      if (first || moved || before.duplicates.has(row.id) !== duplicates.has(row.id)) wake(row.id);
    }
  }

  /** Looks into disks that are the kernel's and not decided yet. */
  async #inspectAndAdmit(): Promise<void> {
    const { kernel, rows, config, wake, observed } = this.#options;
    const topology = this.#topology;
    if (topology === undefined) return;
    const allowed =
      config.diskAllow.length > 0
        ? (disk: { readonly serial: string; readonly model: string; readonly address: string }) =>
            isAllowed(config.diskAllow, disk)
        : undefined;
    const now = performance.now();
    await Promise.all(
      [...this.#findings.disks].map(async ([id, { address, namespace }]) => {
        if (namespace === undefined || rows.disk(id) === undefined) return;
        if (observed.disk(id) !== undefined) return;
        if (now - (this.#evidence.get(id)?.atMs ?? -EVIDENCE_MS) < EVIDENCE_MS) return;
        const evidence = await gatherEvidence(kernel, topology, address, allowed && { allowed });
        this.#evidence.set(id, { evidence, atMs: now });
        wake(id);
        await this.#admitByPolicy(id);
      }),
    );
  }

  async #admitByPolicy(id: string): Promise<void> {
    const { rows, writer, config, log } = this.#options;
    const row = rows.disk(id);
    if (row === undefined || this.#options.writeMode() !== "read-write") return;
    const evidence = this.#evidence.get(id)?.evidence;
    const fabric = this.#fabric.entryOf(row);
    if (!admittedByPolicy(config, row, { evidence, fabric })) return;
    const { serial } = row;
    await writer.mutate({
      kind: "admitDisk",
      id,
      serial,
      evidenceFingerprint: undefined,
      traceparent: undefined,
    });
    log.info({ disk: id, serial }, "disk admitted by policy");
  }

  #setKernelStatus(ok: boolean, reason: string): void {
    if (ok === this.#kernelStatus.ok && reason === this.#kernelStatus.reason) return;
    this.#kernelStatus = { ok, reason, since: new Date() };
  }
}

function exact(_key: string, value: unknown): unknown {
  return typeof value === "bigint" ? value.toString() : value;
}
