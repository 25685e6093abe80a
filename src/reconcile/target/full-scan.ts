// The full scan: reads everything that the target holds and matches it with the rows. Objects
// without a row are candidates for orphans (orphans.ts).
//
// It never changes anything on the target.
import { setImmediate } from "node:timers/promises";
import type { Logger } from "pino";
import { NO_LIMITS, type LvolRow, type PresentLvol } from "../../model/lvol.ts";
import type { SnapshotRow } from "../../model/snapshot.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import { SpdkUnknownOutcome } from "../../spdk/errors.ts";
import type { Bdev, LvolBdev } from "../../spdk/replies-bdev.ts";
import type { Lvol } from "../../spdk/replies-lvol.ts";
import type { Subsystem } from "../../spdk/replies-nvmf.ts";
import type { Rows } from "../../store/rows.ts";
import type { FoundDisks } from "./disks-on-target.ts";
import { nameOf } from "./lvol-alias.ts";
import type { Orphans } from "./orphans.ts";
import { observedLvol, observedSubsystem, type ObservedSince, type Observed } from "./observed.ts";

/** An lvol as listed by the target; sizeBytes is undefined in a list by bdev_lvol_get_lvols. */
type Listed = Pick<Lvol, "uuid" | "alias" | "thin" | "allocatedClusters" | "store"> & {
  readonly sizeBytes: bigint | undefined;
  /** Undefined as sizeBytes is. */
  readonly observed: PresentLvol | undefined;
};

/** Subsystems as read from the target. */
export type FoundSubsystems = {
  readonly subsystems: readonly Subsystem[];
  /** False: the list is too long, and they were asked for by name: others may be there as well. */
  readonly all: boolean;
};

/** The result of one scan. It is applied in one tick: no plan may see one half of it. */
export type Found = {
  /** Undefined when the scan did not include subsystems. */
  readonly subsystems: FoundSubsystems | undefined;
  readonly lvols: readonly Listed[];
  readonly disks: FoundDisks;
  readonly observedSince: ObservedSince;
};

export type FullScanOptions = {
  readonly spdk: SpdkClient;
  readonly rows: Rows;
  readonly observed: Observed;
  readonly log: Logger;
  readonly orphans: Orphans;
  readonly disks: {
    /** @param bdevs the list of all bdevs, when the scan reads it anyway */
    readonly scan: (bdevs?: Promise<readonly Bdev[]>) => Promise<FoundDisks>;
    readonly apply: (disks: FoundDisks) => void;
    readonly ensureFabricDisksAttached: (disks: FoundDisks) => void;
    /** All lvols that were found. */
    readonly applySlices: (lvols: readonly Listed[]) => void;
  };
};

export type ScanOptions = {
  /** Read lvol sizes, from one list of all bdevs: cheaper than one call per lvol. */
  readonly sizes: boolean;
  /** Read subsystems. Not needed after a disk was attached: attaching does not change them. */
  readonly subsystems: boolean;
};

export class FullScan {
  readonly #options: FullScanOptions;
  #scan: Promise<void> | undefined;
  /** The scan that was requested and is not sent yet: further requests share it. */
  #next: { options: ScanOptions; readonly applied: Promise<void> } | undefined;
  /**
   * The list of all bdevs got no answer, so it is not requested again in this incarnation: SPDK
   * never answers a list of more than 32 MiB (docs/spdk-contract.md#limits).
   */
  #listTooLong = false;
  /** The same of the list of all subsystems. */
  #subsystemsTooLong = false;

  constructor(options: FullScanOptions) {
    this.#options = options;
  }

  /** A new process begins with few objects: lists of all may be requested again. */
  beginProcess(): void {
    this.#listTooLong = false;
    this.#subsystemsTooLong = false;
    this.#options.orphans.beginProcess();
  }

  /**
   * Runs a scan after the one that is under way. Calls made before that scan is sent share it, with
   * the options of all of them combined.
   */
  now(options: ScanOptions): Promise<void> {
    if (this.#next !== undefined) {
      const { sizes, subsystems } = this.#next.options;
      this.#next.options = {
        sizes: sizes || options.sizes,
        subsystems: subsystems || options.subsystems,
      };
      return this.#next.applied;
    }
    const before = this.#scan ?? Promise.resolve();
    const applied = before
      .catch(() => {})
      .then(() => setImmediate())
      .then(() => {
        const wanted = this.#next?.options ?? options;
        this.#next = undefined;
        this.#scan = this.read(wanted).then((found) => this.apply(found));
        return this.#scan;
      });
    this.#next = { options, applied };
    return applied;
  }

  async read({ sizes, subsystems: all }: ScanOptions): Promise<Found> {
    const { observed, disks } = this.#options;
    const observedSince = observed.beginScan();
    const bdevs = sizes && !this.#listTooLong ? this.#listBdevs() : undefined;
    try {
      const [subsystems, lvols, found] = await Promise.all([
        all ? this.readSubsystems([]) : undefined,
        bdevs === undefined ? this.#listLvols() : bdevs.then(lvolsOf),
        disks.scan(bdevs),
      ]);
      return { subsystems, lvols, disks: found, observedSince };
    } catch (error) {
      observedSince.end();
      throw error;
    }
  }

  /** Writes the result into the observed state, synchronously. */
  apply({ subsystems, lvols, disks, observedSince }: Found): void {
    this.#options.disks.apply(disks);
    if (subsystems !== undefined) this.#applySubsystems(subsystems, observedSince);
    this.#applyLvols(lvols, observedSince);
    observedSince.end();
    this.#options.disks.ensureFabricDisksAttached(disks);
  }

  /**
   * All subsystems; where their list is too long, those of rows, and those of the NQNs that are given.
   */
  async readSubsystems(nqns: readonly string[]): Promise<FoundSubsystems> {
    const { spdk, rows } = this.#options;
    if (!this.#subsystemsTooLong) {
      try {
        return { subsystems: await spdk.nvmfGetSubsystems(), all: true };
      } catch (error) {
        this.#subsystemsTooLong = isTooLong(error);
        throw error;
      }
    }
    const wanted = [...rows.lvols()].filter(({ deleteTime }) => deleteTime === undefined);
    const names = [...nqns, ...wanted.map(({ nqn }) => nqn)];
    const found = await Promise.all(names.map((nqn) => spdk.getSubsystem(nqn)));
    return { subsystems: found.flatMap((subsystem) => subsystem ?? []), all: false };
  }

  /** The error of a target whose owner cannot be told: its list is tried once more. */
  subsystemsUnknown(): Error {
    this.#subsystemsTooLong = false;
    return new Error("the list of subsystems is too long, and none of them is a known owner mark");
  }

  async #listLvols(): Promise<readonly Listed[]> {
    const lvols = await this.#options.spdk.bdevLvolGetLvols();
    return lvols.map((lvol) => ({ ...lvol, sizeBytes: undefined, observed: undefined }));
  }

  async #listBdevs(): Promise<readonly Bdev[]> {
    try {
      return await this.#options.spdk.bdevGetBdevs();
    } catch (error) {
      this.#listTooLong = isTooLong(error);
      throw error;
    }
  }

  #applySubsystems({ subsystems }: FoundSubsystems, observedSince: ObservedSince): void {
    const { rows, observed, orphans } = this.#options;
    const byNqn = new Map(subsystems.map((subsystem) => [subsystem.nqn, subsystem]));
    for (const row of rows.lvols()) {
      const found = byNqn.get(row.nqn);
      if (observedSince.subsystems.has(row.id)) continue;
      // The subsystem of a tombstone came with a saved configuration: it is ended again.
      if (row.deleteTime === undefined || found !== undefined)
        observed.setSubsystem(row.id, observedSubsystem(found));
    }
    orphans.applySubsystems(subsystems);
  }

  /**
   * A list with sizes is a full observation of each lvol that carries its row's uuid. Otherwise the
   * list is only compared with the earlier observation: where the two disagree (present before and
   * not listed, or absent before and listed), the lvol becomes unknown and is read by name; where
   * they agree, the earlier observation stays.
   */
  #applyLvols(lvols: readonly Listed[], observedSince: ObservedSince): void {
    const { rows, observed, orphans } = this.#options;
    const byUuid = new Map(lvols.map((lvol) => [lvol.uuid, lvol]));
    const byAlias = new Map(lvols.map((lvol) => [lvol.alias, lvol]));
    for (const row of rows.lvols()) {
      const lvol = matching(row, { byUuid, byAlias }, rows);
      if (observedSince.lvols.has(row.id)) continue;
      if (row.deleteTime !== undefined) {
        if (lvol !== undefined) this.#setReturned(row, lvol);
        continue;
      }
      const before = observed.volume(row.id).lvol;
      if (lvol?.observed !== undefined && lvol.uuid === row.lvolUuid)
        observed.setLvol(row.id, lvol.observed);
      else if (lvol === undefined && before?.kind === "present")
        observed.setLvol(row.id, undefined);
      else if (lvol !== undefined && before?.kind === "absent") observed.setLvol(row.id, undefined);
    }
    for (const row of rows.snapshots.all()) {
      if (observedSince.lvols.has(row.id)) continue;
      this.#applySnapshot(row, matching(row, { byUuid, byAlias }, rows));
    }
    this.#options.disks.applySlices(lvols);
    orphans.applyLvols(lvols);
  }

  /** As of volumes; the snapshot of a tombstone that is listed is deleted again. */
  #applySnapshot(row: SnapshotRow, lvol: Listed | undefined): void {
    const { observed } = this.#options;
    const before = observed.snapshot(row.id);
    if (row.deleteTime !== undefined) {
      if (lvol !== undefined) observed.setSnapshot(row.id, asPresent(lvol, row.promisedBytes));
    } else if (lvol?.observed !== undefined && lvol.uuid === row.lvolUuid) {
      observed.setSnapshot(row.id, lvol.observed);
    } else if ((lvol === undefined ? "present" : "absent") === before?.kind) {
      observed.setSnapshot(row.id, undefined);
    }
  }

  /** The lvol of a tombstone is listed, because its delete failed halfway: it is deleted again. */
  #setReturned(row: LvolRow, lvol: Listed): void {
    this.#options.log.warn(
      { id: row.id, uuid: lvol.uuid },
      "lvol of a deleted volume found, deleting it again",
    );
    this.#options.observed.setLvol(row.id, asPresent(lvol, row.promisedBytes));
  }
}

/** sizeBytes: where the list has none. */
function asPresent(
  { uuid, store, alias, thin, allocatedClusters, observed }: Listed,
  sizeBytes: bigint,
): PresentLvol {
  if (observed !== undefined) return observed;
  const unknown = { parent: undefined, limits: NO_LIMITS } as const;
  const lvsUuid = store.uuid;
  const name = nameOf(alias);
  return { kind: "present", uuid, lvsUuid, sizeBytes, thin, allocatedClusters, name, ...unknown };
}

/**
 * The lvol of a row: by uuid once the row has one, else by the alias it was to be created under.
 */
function matching(
  row: Pick<LvolRow, "id" | "diskId" | "lvolUuid"> & { readonly nameTaken?: boolean },
  lvols: {
    readonly byUuid: ReadonlyMap<string, Listed>;
    readonly byAlias: ReadonlyMap<string, Listed>;
  },
  rows: Rows,
): Listed | undefined {
  if (row.lvolUuid !== undefined) return lvols.byUuid.get(row.lvolUuid);
  if (row.nameTaken === true) return undefined;
  const store = rows.disk(row.diskId)?.lvsName;
  return store === undefined ? undefined : lvols.byAlias.get(`${store}/${row.id}`);
}

function lvolsOf(bdevs: readonly Bdev[]): readonly Listed[] {
  return bdevs.flatMap((bdev) => (bdev.kind === "lvol" ? [listed(bdev)] : []));
}

/** An lvol's alias is `<lvstore name>/<lvol name>`. */
function listed(bdev: LvolBdev): Listed {
  const { uuid, sizeBytes, aliases, lvol } = bdev;
  const [alias = ""] = aliases;
  const observed = observedLvol(bdev);
  const { thin, allocatedClusters, storeUuid } = lvol;
  const store = { uuid: storeUuid, name: alias.slice(0, Math.max(alias.indexOf("/"), 0)) };
  return { uuid, alias, thin, allocatedClusters, store, sizeBytes, observed };
}

/** The list was cut off, or got no answer in time. */
function isTooLong(error: unknown): boolean {
  return error instanceof SpdkUnknownOutcome && error.reason !== "disconnected";
}
