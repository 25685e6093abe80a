// The controllers of the node: their rows, what the last scans of kernel and target show of each, and
// their views. disk/disks.ts scans; perform.ts performs the steps of controller-take.
import type { Logger } from "pino";
import { hasDrive, newControllerRow, type ControllerRow } from "../../model/controller.ts";
import { ownSubjects } from "../../model/disk-claim.ts";
import type { DiskRow } from "../../model/disk.ts";
import type { Evidence } from "../../model/evidence.ts";
import type { PendingContext } from "../../model/pending-op.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Rows } from "../../store/rows.ts";
import type { Writer } from "../../store/writer.ts";
import { closureOf } from "../../sysfs/closure.ts";
import type { Kernel } from "../../sysfs/kernel.ts";
import type { NvmeFunction, NvmeTopology } from "../../sysfs/nvme.ts";
import { vfioUsers } from "../../sysfs/vfio-users.ts";
import { nodeObstacle } from "../../sysfs/vfio.ts";
import type { Moment } from "../engine/kind.ts";
import { exportsLeft } from "../disk/exports-left.ts";
import type { Observed } from "../target/observed.ts";
import type { UnknownOutcomes } from "../target/unknown-outcomes.ts";
import type { ObservedDisk } from "../target/observed-disk.ts";
import type { Attached } from "./attached.ts";
import { isInUse, isSetBack, isTaken, isWanted, VFIO } from "./closure-rules.ts";
import type { ClaimMemory, Claims } from "./claim-memory.ts";
import {
  conflictOf,
  expectedAt,
  NOTHING_SEEN,
  sightingsOf,
  type Sightings,
  type Where,
} from "./places.ts";
import type { ControllerView, DiskThere, FunctionInKernel, Member } from "./view.ts";

export type ControllersOptions = {
  readonly nodeId: string;
  readonly rows: Rows;
  readonly writer: Pick<Writer, "insertController">;
  readonly kernel: Kernel;
  readonly observed: Observed;
  readonly attached: Attached;
  readonly claims: ClaimMemory;
  readonly log: Logger;
  readonly pending: (now: Date) => PendingContext;
  readonly writeMode: () => WriteMode;
  readonly targetListed: () => boolean;
  /** What the target does not list comes only by what this agent sends. */
  readonly targetSettled: () => boolean;
  readonly outcomes: UnknownOutcomes;
  /** As found by the latest look at a disk. */
  readonly evidence: (id: string) => readonly Evidence[] | undefined;
  /** The row of the disk is that of another node. */
  readonly isElsewhere: (id: string) => boolean;
  readonly loadEnded: (disk: ObservedDisk | undefined) => boolean;
  readonly wake: (address: string) => void;
};

/** Where a disk is now. */
export type PlaceOfDisk = {
  readonly address: string;
  readonly driver: string | undefined;
  readonly kernelName: string | undefined;
  /** The agent has taken its controller from the kernel, and not given it back. */
  readonly taken: boolean;
  readonly nguid?: string | undefined;
  readonly eui64?: string | undefined;
};

export class Controllers {
  readonly #options: ControllersOptions;
  #topology: NvmeTopology | undefined;
  #sightings: Sightings = NOTHING_SEEN;
  #obstacle: string | undefined;
  #users: ReadonlyMap<string, string> = new Map();

  constructor(options: ControllersOptions) {
    this.#options = options;
  }

  get topology(): NvmeTopology | undefined {
    return this.#topology;
  }

  get sightings(): Sightings {
    return this.#sightings;
  }

  /**
   * Takes over what a scan of the kernel has found, and inserts rows for new functions. before: the claims that held
   * when it began.
   */
  async scanned(topology: NvmeTopology, before: Claims): Promise<void> {
    const { kernel, rows, attached, claims, log } = this.#options;
    this.#topology = topology;
    this.#sightings = sightingsOf(topology);
    const isTaken = (address: string) => rows.controller(address)?.originalDriver !== undefined;
    claims.endUnseen(before, topology.functions, isTaken);
    if (this.#sightings.withoutSerial.length > 0) {
      const { withoutSerial } = this.#sightings;
      log.debug({ kernel_names: withoutSerial }, "ignoring disks without a serial number");
    }
    const hidden = topology.functions.filter(
      ({ pciAddress, driver }) => driver === VFIO && attached.nameAt(pciAddress) === undefined,
    );
    const groups = new Set(hidden.flatMap(({ iommuGroup }) => iommuGroup ?? []));
    [this.#obstacle, this.#users] = await Promise.all([
      nodeObstacle(kernel),
      vfioUsers(kernel, groups, rows.node?.targetProcess?.pid),
    ]);
    await this.#insertRows(topology);
    this.wakeAll();
  }

  async #insertRows({ functions }: NvmeTopology): Promise<void> {
    const { rows, writer, writeMode, nodeId, log } = this.#options;
    if (rows.node === undefined || writeMode() !== "read-write") return;
    const unknown = functions.filter(({ pciAddress }) => rows.controller(pciAddress) === undefined);
    await Promise.all(
      unknown.map(async (one) => {
        const { pciAddress: id, driver, iommuGroup } = one;
        const found = { id, driver, iommuGroup, ...identityOf(one) };
        await writer.insertController(newControllerRow(nodeId, found, new Date()));
        log.info({ controller: id, driver }, "new controller found");
      }),
    );
  }

  /** Who has the vfio group of a function open, looked for now; undefined: nobody but the target. */
  async userOfGroup(address: string): Promise<string | undefined> {
    const { kernel, rows } = this.#options;
    const group = this.#functionAt(address)?.iommuGroup;
    if (group === undefined) return undefined;
    const pid = rows.node?.targetProcess?.pid;
    return (await vfioUsers(kernel, new Set([group]), pid)).get(group);
  }

  wakeAll(): void {
    for (const { id } of this.#options.rows.controllers()) this.#options.wake(id);
  }

  view(row: ControllerRow, moment: Moment): ControllerView {
    const { observed, rows, pending, writeMode, targetListed } = this.#options;
    const members = this.#membersOf(row);
    const groups = members.flatMap(({ inKernel }) => inKernel?.iommuGroup ?? []);
    const user = groups.map((group) => this.#users.get(group)).find((text) => text !== undefined);
    return {
      ...this.#memberAt(row.id),
      row,
      ...moment,
      targetConnected: observed.targetAnswers,
      targetListed: targetListed(),
      kernelListed: this.#topology !== undefined,
      members,
      obstacle: this.#obstacle,
      groupUser: user,
      elsewhere: this.seenAt(row.id).some((id) => this.#options.isElsewhere(id)),
      missing: [...rows.disks()].filter((disk) => this.#isMissing(disk)),
      ownSubjects: ownSubjects(rows.disks()),
      pending: pending(moment.now),
      writeMode: writeMode(),
    };
  }

  /** Where a disk is; undefined: it is seen nowhere. */
  placeOf(disk: DiskRow): PlaceOfDisk | undefined {
    const where = this.#whereIs(disk);
    const driverAt = (address: string) => this.#functionAt(address)?.driver;
    if (where.onTarget !== undefined) {
      const { onTarget: address } = where;
      return { address, driver: driverAt(address), kernelName: undefined, taken: true };
    }
    const seen = where.sightings.byDisk.get(disk.id) ?? [];
    const sighting = seen.find(({ address }) => address === disk.address) ?? seen[0];
    if (sighting !== undefined) {
      const { kernelName, nguid, eui64 } = sighting.namespace;
      const driver = driverAt(sighting.address);
      // It does not move to the place of what may be another disk.
      const address = this.conflictOf(disk) === undefined ? sighting.address : disk.address;
      return { address, driver, kernelName, taken: false, nguid, eui64 };
    }
    const [expected] = expectedAt(where, disk);
    if (expected === undefined) return undefined;
    const { id: address, originalDriver } = expected;
    const taken = originalDriver !== undefined;
    return { address, driver: driverAt(address), kernelName: undefined, taken };
  }

  /** Ids of the disks that the kernel's driver shows at a function. */
  seenAt(address: string): readonly string[] {
    const isHere = (sighting: { readonly address: string }) => sighting.address === address;
    return [...this.#sightings.byDisk].flatMap(([id, seen]) => (seen.some(isHere) ? [id] : []));
  }

  conflictOf(disk: DiskRow): string | undefined {
    return disk.transport === "PCIe" ? conflictOf(this.#whereIs(disk), disk) : undefined;
  }

  /**
   * Of the controllers of a disk: why a claim failed for good, what they wait for or fail at, and whether one may
   * be attached by what was sent already.
   */
  troublesOf(disk: DiskRow, now: Date, waits?: string) {
    const { rows, pending } = this.#options;
    const attachMayRun = this.#attachMayRun(disk);
    if (disk.transport !== "PCIe") return { setback: undefined, waits, attachMayRun };
    const own = [...rows.controllers()].filter((row) => hasDrive(row, disk));
    const setBack = own.find((row) => isSetBack({ now, pending: pending(now) }, row));
    const texts = own.map(({ lastError, stateReason }) => lastError ?? stateReason);
    return { setback: setBack?.setback, waits: texts.find((text) => text !== ""), attachMayRun };
  }

  /** Of a function that the target can attach, and whose drive is the one of the disk or not known. */
  #attachMayRun(disk: DiskRow): boolean {
    const { rows, attached, outcomes, targetSettled } = this.#options;
    if (disk.transport !== "PCIe") return !targetSettled();
    return [...rows.controllers()]
      .filter((row) => this.#functionAt(row.id)?.driver === VFIO)
      .filter((row) => row.serial === undefined || hasDrive(row, disk))
      .some(
        ({ id }) => !targetSettled() || attached.isAttaching(id) || outcomes.of(id) !== undefined,
      );
  }

  /** Other disks in use that go together with an attached one, if it is detached: `serial/nsid`. */
  usedWith({ id }: DiskRow): readonly string[] {
    const { observed, rows, attached } = this.#options;
    const name = observed.disk(id)?.controllerName;
    const row = rows.controller((name && attached.addressOf(name)) ?? "");
    const members = row === undefined ? [] : this.#membersOf(row);
    return members
      .flatMap(({ disks }) => disks)
      .filter((there) => there.row.id !== id && isInUse(there))
      .map(({ row: { serial, nsid } }) => `${serial}/${nsid}`);
  }

  #whereIs(disk: DiskRow): Where {
    const { observed, attached, rows } = this.#options;
    const name = observed.disk(disk.id)?.controllerName;
    return {
      sightings: this.#sightings,
      functions: this.#topology?.functions ?? [],
      controllers: [...rows.controllers()],
      onTarget: name === undefined ? undefined : attached.addressOf(name),
    };
  }

  #functionAt(address: string): NvmeFunction | undefined {
    return this.#topology?.functions.find(({ pciAddress }) => pciAddress === address);
  }

  #membersOf({ id, members }: ControllerRow): readonly Member[] {
    const closure = this.#topology === undefined ? [] : closureOf(this.#topology, id);
    const together = members.filter((address) => this.#functionAt(address) !== undefined);
    const all = new Set([id, ...closure.map(({ pciAddress }) => pciAddress), ...together]);
    return [...all].toSorted().map((address) => this.#memberAt(address));
  }

  #memberAt(address: string): Member {
    const { rows, attached } = this.#options;
    const found = this.#functionAt(address);
    const row = rows.controller(address);
    const attachedAs = attached.nameAt(address);
    const disks = [...rows.disks()]
      .filter((disk) => this.#isThere(disk, { address, row, attachedAs, found }))
      .map((disk) => this.#diskThere(disk, address));
    return { address, row, inKernel: found && inKernel(found), attachedAs, disks };
  }

  #isThere(
    disk: DiskRow,
    {
      address,
      row,
      attachedAs,
      found,
    }: Pick<Member, "address" | "row" | "attachedAs"> & {
      readonly found: NvmeFunction | undefined;
    },
  ): boolean {
    if (disk.transport !== "PCIe") return false;
    const on = this.#options.observed.disk(disk.id)?.controllerName;
    if (attachedAs !== undefined || on !== undefined) return on !== undefined && on === attachedAs;
    const seen = this.#sightings.byDisk.get(disk.id) ?? [];
    if (seen.some((sighting) => sighting.address === address)) return true;
    // Only where nobody can look.
    const isHidden = found !== undefined && found.controllers.length === 0;
    return isHidden && row !== undefined && hasDrive(row, disk);
  }

  #diskThere(row: DiskRow, address: string): DiskThere {
    const { observed, claims, evidence, loadEnded } = this.#options;
    const onTarget = observed.disk(row.id);
    return {
      row,
      onTarget,
      evidence: evidence(row.id),
      conflict: this.conflictOf(row),
      claimedBlank: claims.has(row.id, "blank", address),
      foundEmpty: claims.has(row.id, "empty", address),
      loadEnded: loadEnded(onTarget),
      exportsLeft: exportsLeft(this.#options, row),
    };
  }

  #isMissing(disk: DiskRow): boolean {
    if (disk.transport !== "PCIe" || disk.lvsUuid === undefined || !isWanted(disk)) return false;
    const { rows, observed } = this.#options;
    if (observed.disk(disk.id) !== undefined || this.#sightings.byDisk.has(disk.id)) return false;
    const isHeld = (row: ControllerRow) =>
      hasDrive(row, disk) && isTaken({ ...this.#memberAt(row.id), row });
    return ![...rows.controllers()].some(isHeld);
  }
}

function inKernel(found: NvmeFunction): FunctionInKernel {
  const { driver, driverOverride, iommuGroup, controllers } = found;
  const namespaces = controllers.flatMap((controller) => controller.namespaces).length;
  return { driver, driverOverride, iommuGroup, identity: identityOf(found), namespaces };
}

/** Of a live controller with a serial, as the kernel's driver reads it. */
function identityOf({ controllers }: NvmeFunction) {
  const live = controllers.find(({ serial, state }) => serial !== "" && state !== "dead");
  return live && { serial: live.serial, model: live.model };
}
