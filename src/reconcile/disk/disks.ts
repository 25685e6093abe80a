// The disks of the node: lists them in the kernel and on the target, matches them with their rows,
// inserts rows for new ones, gathers evidence and admits by policy. The pure part of the loop
// disk-discover is discover.ts; perform.ts performs the steps of disk-init.
import type { Logger } from "pino";
import type { Config } from "../../config.ts";
import type { DiskRow, DiskReadiness } from "../../model/disk.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { Bdev } from "../../spdk/replies-bdev.ts";
import type { PendingContext } from "../../model/pending-op.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Rows } from "../../store/rows.ts";
import type { Writer } from "../../store/writer.ts";
import type { Kernel } from "../../sysfs/kernel.ts";
import type { AfterLoss } from "../engine/attempt.ts";
import { readiness } from "./phase.ts";
import { NewDisks } from "./new-disks.ts";
import { performDiskStep } from "./perform.ts";
import { CallLooks } from "./call-looks.ts";
import { Locators } from "./locate.ts";
import { Attached } from "../controller/attached.ts";
import { Controllers } from "../controller/controllers.ts";
import { ClaimMemory } from "../controller/claim-memory.ts";
import { performControllerStep } from "../controller/perform.ts";
import type { ControllerView } from "../controller/view.ts";
import { ownSubjects } from "../../model/disk-claim.ts";
import type { DiskView } from "./view.ts";
import type { FoundDisks } from "../target/disks-on-target.ts";
import type { LoopStatus, Moment, StepResult } from "../engine/kind.ts";
import type { ScanOptions } from "../target/full-scan.ts";
import { releaseFacts } from "./fabric-use.ts";
import { exposureShown } from "./held-exports.ts";
import { FabricDisks } from "./fabric-disks.ts";
import type { Lanes } from "../engine/lanes.ts";
import { KernelListings } from "./kernel-listings.ts";
import { KernelScans } from "./kernel-scans.ts";
import { TargetListings } from "./target-listings.ts";
import { StoreLoads } from "./store-loads.ts";
import type { Observed } from "../target/observed.ts";
import type { UnknownOutcomes } from "../target/unknown-outcomes.ts";
import type { ControllerStep, DiskStep } from "../steps.ts";
import type { HealthLoop } from "./health.ts";
import type { Slices } from "./slices.ts";
import { freeSpaceFacts, spaceOnTarget } from "./free-space.ts";
import { Admissions } from "./admissions.ts";

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
  readonly health: Pick<HealthLoop, "seen">;
  readonly pending: (now: Date) => PendingContext;
  readonly writeMode: () => WriteMode;
  readonly wake: (id: string) => void;
  readonly wakeController: (address: string) => void;
  readonly scanAll: (options: ScanOptions) => Promise<void>;
  /** The LED of a disk's slot was switched. */
  readonly onLocated: (id: string) => void;
};

export class Disks {
  readonly #options: DisksOptions;
  readonly #fabric: FabricDisks;
  readonly #storeLoads: StoreLoads;
  readonly #claims = new ClaimMemory();
  readonly #admissions: Admissions;
  readonly #attached: Attached;
  readonly #newDisks: NewDisks;
  readonly #listings = new KernelListings(() => this.#options.kernel);
  readonly controllers: Controllers;
  /** For calls. */
  readonly looks: CallLooks;
  readonly locators: Locators;
  readonly listings: TargetListings;
  readonly scanTargetDisks = (bdevs?: Promise<readonly Bdev[]>) => this.listings.read(bdevs);
  readonly #scans = new KernelScans(
    async () => {
      await this.#syncKernelDisks();
      await this.#inspectAndAdmit();
    },
    () => {
      this.#retryPostponed().catch((error: unknown) => {
        const { log } = this.#options;
        log.debug({ err: error }, "postponed scan or admission of disks failed, retrying");
      });
    },
  );

  constructor(options: DisksOptions) {
    this.#options = options;
    this.listings = new TargetListings(options);
    this.#attached = new Attached(options);
    this.#newDisks = new NewDisks(options);
    this.#admissions = new Admissions({
      ...options,
      find: (id) => this.controllers.sightings.byDisk.get(id)?.[0],
      topology: () => this.controllers.topology,
      entryOf: (row) => this.#fabric.entryOf(row),
    });
    this.controllers = new Controllers({
      ...options,
      nodeId: options.config.nodeId,
      attached: this.#attached,
      claims: this.#claims,
      targetListed: () => this.listings.listed,
      targetSettled: () => this.listings.settled,
      evidence: (id) => this.#admissions.looks.evidence(id),
      isElsewhere: (id) => this.#newDisks.isElsewhere(id),
      loadEnded: (disk) => this.#storeLoads.ended(disk),
      wake: options.wakeController,
    });
    this.locators = new Locators({ ...options, controllers: this.controllers });
    this.looks = new CallLooks({
      ...options,
      claims: this.#claims,
      controllers: this.controllers,
      admissions: this.#admissions,
      syncKernelDisks: () => this.#syncKernelDisks(),
    });
    const rescan = () => options.scanAll({ sizes: true, subsystems: false });
    const onEnded = () => this.#wakeAll();
    this.#storeLoads = new StoreLoads({ ...options, rescan, onEnded });
    this.#fabric = new FabricDisks({
      ...options,
      list: async () => (await this.listings.read()).found,
      rescan: () => this.rescanTarget(),
      admit: (id) => this.#admissions.admitByPolicy(id),
    });
  }

  get kernelStatus() {
    return this.#scans.status;
  }

  /** Whether the disks were listed both in the kernel and in this incarnation of the target. */
  get listed(): boolean {
    return this.controllers.topology !== undefined && this.listings.listed;
  }

  scanKernelNow(): void {
    this.#scans.now();
  }

  async stop(): Promise<void> {
    this.#fabric.stop();
    await this.#scans.stop();
  }

  loops(): readonly LoopStatus[] {
    const { loop } = this.#scans;
    return [{ ...loop, lastError: loop.lastError ?? this.#fabric.trouble }];
  }

  view(row: DiskRow, moment: Moment): DiskView {
    const { observed, config, rows, pending, writeMode, outcomes, slices } = this.#options;
    const place = row.transport === "PCIe" ? this.controllers.placeOf(row) : undefined;
    const onTarget = observed.disk(row.id);
    return {
      row,
      ...moment,
      targetConnected: observed.targetAnswers,
      targetListed: this.listings.listed,
      onTarget,
      space: spaceOnTarget(row, onTarget, config.spaceThresholds, slices.heldBytes(row)),
      spaceThresholds: config.spaceThresholds,
      inKernel: place && { ...place, evidence: this.#admissions.looks.evidence(row.id) },
      kernelListed: this.controllers.topology !== undefined,
      fabric: this.#fabric.entryOf(row),
      conflict: this.controllers.conflictOf(row),
      ownSubjects: ownSubjects(rows.disks()),
      ...this.controllers.troublesOf(row, moment.now, this.#fabric.waits(row)),
      claimedBlank: this.#claims.has(row.id, "blank", place?.address),
      loadEnded: this.#storeLoads.ended(observed.disk(row.id)),
      ...releaseFacts({ ...this.#options, usedWith: (one) => this.controllers.usedWith(one) }, row),
      fleet: config.fleet,
      pending: pending(moment.now),
      writeMode: writeMode(),
      outcomeUnknown: outcomes.of(row.id) ?? (place && outcomes.of(place.address)),
      ...freeSpaceFacts(this.#options, row.id),
      health: this.#options.health.seen(row.id),
    };
  }

  diskReadiness(row: DiskRow): DiskReadiness {
    const view = this.view(row, { now: new Date(), inFlight: false, failures: row.failures });
    const locate = this.locators.isOn(row.id);
    return { ...readiness(view), ...exposureShown(this.#options, row), locate };
  }

  async perform(view: DiskView, step: DiskStep): Promise<StepResult> {
    const { looks } = this.#admissions;
    const [claims, scanDisks] = [this.#claims, () => this.rescanTarget()];
    const context = { ...this.#options, looks, claims, scanDisks };
    const result = await performDiskStep(context, view, step);
    if (step.kind !== "wipe-disk") return result;
    await this.#syncKernelDisks();
    await this.#inspectAndAdmit();
    return result;
  }

  async performController(view: ControllerView, step: ControllerStep): Promise<StepResult> {
    const context = {
      ...this.#options,
      attached: this.#attached,
      claims: this.#claims,
      ownSubjects: () => ownSubjects(this.#options.rows.disks()),
      groupUser: (address: string) => this.controllers.userOfGroup(address),
      scanDisks: () => this.rescanTarget(),
      foundInClaim: this.#admissions.foundInClaim.bind(this.#admissions),
    };
    const act = () => performControllerStep(context, view, step);
    const list = () => this.#syncKernelDisks();
    if (step.kind !== "claim-controllers" && step.kind !== "release-controllers") {
      const result = await act();
      // It may have been pulled out since the last scan.
      if (step.kind === "attach-controller" && result.kind !== "ok") await list();
      return result;
    }
    const ids = view.members.flatMap(({ disks }) => disks.map(({ row }) => row.id));
    const result = await this.#admissions.looks.whileMoved(ids, act, list);
    if (step.kind === "release-controllers") await this.#inspectAndAdmit();
    return result;
  }

  /** Scans and applies the disks on the target only. */
  async rescanTarget(): Promise<void> {
    const { incarnation } = this.#options.observed;
    const disks = await this.listings.read();
    if (this.#options.observed.incarnation !== incarnation) return;
    this.applyTargetScan(disks);
    this.ensureFabricDisksAttached(disks);
  }

  /** Matches the disks found on the target with rows and stores them as observations. */
  applyTargetScan(scan: FoundDisks): void {
    const { found, controllers, inTransition, freeRead } = scan;
    const { rows, observed, log } = this.#options;
    this.#attached.scanned(controllers);
    const functions = this.controllers.topology?.functions ?? [];
    this.#newDisks.insertFound(found, functions).then(
      () => this.#expectLoads(),
      (error: unknown) => log.warn({ err: error }, "cannot record the disks that the target has"),
    );
    const byId = new Map(found.map((disk) => [disk.id, disk]));
    for (const row of rows.disks()) {
      const now = byId.get(row.id);
      if (inTransition.has(row.id) && now !== undefined && now.store === undefined) continue;
      observed.setScannedDisk(row.id, now, freeRead);
      if (now?.store !== undefined) this.#claims.end(row.id);
    }
    this.listings.applied(scan);
    this.#wakeAll();
    this.#expectLoads();
  }

  #wakeAll(): void {
    for (const { id } of this.#options.rows.disks()) this.#options.wake(id);
    this.controllers.wakeAll();
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
    const message = "cannot attach the fabric disks of the configuration, retrying";
    const attached = this.#fabric.ensureAttached(found).then(() => this.#expectLoads());
    attached.catch((err: unknown) => this.#options.log.warn({ err }, message));
  }

  /**
   * Retries, once per kernel scan, what failed or was not permitted when it was due: the list of
   * the disks on the target, and the admission of fabric disks.
   */
  async #retryPostponed(): Promise<void> {
    const isConnected = this.#options.observed.incarnation !== undefined;
    if (isConnected && this.listings.due) await this.rescanTarget();
    await this.#fabric.admitKnown();
  }

  async #syncKernelDisks(): Promise<void> {
    const { rows, wake } = this.#options;
    const claims = this.#claims.all();
    const topology = await this.#listings.list();
    if (topology === undefined) return;
    const before = new Map([...rows.disks()].map((row) => [row.id, this.#placeText(row)]));
    const first = this.controllers.topology === undefined;
    await this.controllers.scanned(topology, claims);
    await this.locators.scan();
    if (rows.node === undefined) return;
    await this.#newDisks.insertSeen(this.controllers.sightings);
    for (const row of rows.disks()) {
      const moved = before.get(row.id) !== this.#placeText(row);
      if (moved) this.#admissions.looks.forget(row.id);
      if (first || moved) wake(row.id);
    }
  }

  /** Changes when the disk has another place, another driver, or a double. */
  #placeText(row: DiskRow): string {
    const { address, driver } = this.controllers.placeOf(row) ?? {};
    return JSON.stringify([address, driver, this.controllers.conflictOf(row)]);
  }

  /** Looks at disks that have a kernel driver and are not on the target; ends admissions, and admits. */
  async #inspectAndAdmit(): Promise<void> {
    const { rows, wake, observed } = this.#options;
    await Promise.all(
      [...this.controllers.sightings.byDisk.keys()].map(async (id) => {
        const row = rows.disk(id);
        if (row === undefined || observed.disk(id) !== undefined) return;
        // Of two disks with one identity, nobody knows which was looked at.
        if (this.controllers.conflictOf(row) !== undefined) return;
        if (this.#admissions.looks.isDue(id)) {
          await this.#admissions.look(id);
          wake(id);
        }
        await this.#admissions.admitByPolicy(id);
      }),
    );
    await this.#admissions.endInspections((row) => this.controllers.seenAt(row.id));
    this.controllers.wakeAll();
  }
}
