// The full scan: reads everything that the target holds and matches it with the rows. An lvol without a
// row whose compacted tombstone is in the database brings its row back; other objects without a row
// (orphans) are counted, and orphan lvols are also named in the log.
//
// It never changes and never removes an orphan.
import { setImmediate } from "node:timers/promises";
import type { Logger } from "pino";
import { fleetHash, isUuid, parseOwnerNqn, parseStoreName } from "../../model/identity.ts";
import type { LvolRow } from "../../model/lvol.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import { SpdkUnknownOutcome } from "../../spdk/errors.ts";
import type { Bdev, LvolBdev } from "../../spdk/replies-bdev.ts";
import type { Lvol } from "../../spdk/replies-lvol.ts";
import type { Subsystem } from "../../spdk/replies-nvmf.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Rows } from "../../store/rows.ts";
import { isOf, type UnknownLvol } from "../../store/tombstones.ts";
import type { Writer } from "../../store/writer.ts";
import type { FoundDisks } from "./disks-on-target.ts";
import { observedSubsystem, type ObservedSince, type Observed } from "./observed.ts";

/** Lvols in lvstores of this fleet, and NVMe subsystems, that have no row. */
export type OrphanCounts = { readonly orphanLvols: number; readonly orphanSubsystems: number };

/** An lvol as listed by the target; sizeBytes is undefined in a list by bdev_lvol_get_lvols. */
type Listed = Pick<Lvol, "uuid" | "alias" | "thin" | "allocatedClusters" | "store"> & {
  readonly sizeBytes: bigint | undefined;
};

/** The result of one scan. It is applied in one tick: no plan may see one half of it. */
export type Found = {
  /** Undefined when the scan did not include subsystems. */
  readonly subsystems: readonly Subsystem[] | undefined;
  readonly lvols: readonly Listed[];
  readonly disks: FoundDisks;
  readonly observedSince: ObservedSince;
};

export type FullScanOptions = {
  readonly spdk: SpdkClient;
  readonly rows: Rows;
  readonly observed: Observed;
  readonly log: Logger;
  readonly fleet: string;
  readonly nqnPrefix: string;
  readonly writer: Pick<Writer, "findTombstones" | "restoreTombstones">;
  readonly writeMode: () => WriteMode;
  readonly disks: {
    /** @param bdevs the list of all bdevs, when the scan reads it anyway */
    readonly scan: (bdevs?: Promise<readonly Bdev[]>) => Promise<FoundDisks>;
    readonly apply: (disks: FoundDisks) => void;
    readonly ensureFabricDisksAttached: (disks: FoundDisks) => void;
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
  #orphanCounts: OrphanCounts = { orphanLvols: 0, orphanSubsystems: 0 };
  /** The lvols without a row that the last scan showed. */
  #unknown: readonly Listed[] = [];
  /** Some of them may be known to tombstones that could not be read, or not be restored. */
  #unsettled = false;

  constructor(options: FullScanOptions) {
    this.#options = options;
  }

  /** A new incarnation begins with few bdevs: the list of all bdevs may be requested again. */
  beginIncarnation(): void {
    this.#listTooLong = false;
  }

  get orphanCounts(): OrphanCounts {
    return this.#orphanCounts;
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
    const { observed, spdk, disks } = this.#options;
    const observedSince = observed.beginScan();
    const bdevs = sizes && !this.#listTooLong ? this.#listBdevs() : undefined;
    try {
      const [subsystems, lvols, found] = await Promise.all([
        all ? spdk.nvmfGetSubsystems() : undefined,
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

  async #listLvols(): Promise<readonly Listed[]> {
    const lvols = await this.#options.spdk.bdevLvolGetLvols();
    return lvols.map((lvol) => ({ ...lvol, sizeBytes: undefined }));
  }

  async #listBdevs(): Promise<readonly Bdev[]> {
    try {
      return await this.#options.spdk.bdevGetBdevs();
    } catch (error) {
      this.#listTooLong = error instanceof SpdkUnknownOutcome;
      throw error;
    }
  }

  #applySubsystems(subsystems: readonly Subsystem[], observedSince: ObservedSince): void {
    const { rows, observed, nqnPrefix } = this.#options;
    const byNqn = new Map(subsystems.map((subsystem) => [subsystem.nqn, subsystem]));
    for (const row of rows.lvols()) {
      const found = byNqn.get(row.nqn);
      byNqn.delete(row.nqn);
      if (observedSince.subsystems.has(row.id)) continue;
      if (row.deleteTime === undefined) observed.setSubsystem(row.id, observedSubsystem(found));
    }
    const orphans = [...byNqn.values()].filter(
      ({ nqn, subtype }) => subtype === "NVMe" && parseOwnerNqn(nqnPrefix, nqn) === undefined,
    );
    this.#orphanCounts = { ...this.#orphanCounts, orphanSubsystems: orphans.length };
  }

  /**
   * A list with sizes is a full observation of each lvol that carries its row's uuid. Otherwise the
   * list is only compared with the earlier observation: where the two disagree (present before and
   * not listed, or absent before and listed), the lvol becomes unknown and is read by name; where
   * they agree, the earlier observation stays.
   */
  #applyLvols(lvols: readonly Listed[], observedSince: ObservedSince): void {
    const { rows, observed, fleet } = this.#options;
    const byUuid = new Map(lvols.map((lvol) => [lvol.uuid, lvol]));
    const byAlias = new Map(lvols.map((lvol) => [lvol.alias, lvol]));
    const known = new Set<string>();
    for (const row of rows.lvols()) {
      const lvol = matching(row, { byUuid, byAlias }, rows);
      if (lvol !== undefined) known.add(lvol.uuid);
      if (observedSince.lvols.has(row.id)) continue;
      if (row.deleteTime !== undefined) {
        if (lvol !== undefined) this.#setReturned(row, lvol);
        continue;
      }
      const before = observed.volume(row.id).lvol;
      if (lvol?.sizeBytes !== undefined && lvol.uuid === row.lvolUuid) {
        const { uuid, sizeBytes, thin, allocatedClusters, store } = lvol;
        const lvsUuid = store.uuid;
        observed.setLvol(row.id, {
          kind: "present",
          uuid,
          lvsUuid,
          sizeBytes,
          thin,
          allocatedClusters,
        });
      } else if (lvol === undefined && before?.kind === "present")
        observed.setLvol(row.id, undefined);
      else if (lvol !== undefined && before?.kind === "absent") observed.setLvol(row.id, undefined);
    }
    const ours = (lvol: Listed) => parseStoreName(lvol.store.name)?.fleet === fleetHash(fleet);
    this.#unknown = lvols.filter((lvol) => !known.has(lvol.uuid) && ours(lvol));
    if (this.#unknown.length === 0) this.#setOrphans([]);
    else this.#settleUnknown().catch((error: unknown) => this.#onUnsettled(error));
  }

  /** The write mode permits changes now: what could not be settled before is settled. */
  onWriteMode(): void {
    if (!this.#unsettled) return;
    this.#settleUnknown().catch((error: unknown) => this.#onUnsettled(error));
  }

  /** Asks the database which of the lvols without a row belong to deleted volumes. */
  async #settleUnknown(): Promise<void> {
    const { writer, writeMode } = this.#options;
    const unknown = this.#unknown;
    this.#unsettled = false;
    const asked = unknown.flatMap((lvol) => unknownLvol(lvol) ?? []);
    const found = await writer.findTombstones(asked);
    // A later scan settles what it has found.
    if (unknown !== this.#unknown) return;
    const deleted = asked.filter((lvol) => found.some((tombstone) => isOf(tombstone, lvol)));
    const uuids = new Set(deleted.map(({ uuid }) => uuid));
    this.#setOrphans(unknown.filter(({ uuid }) => !uuids.has(uuid)));
    if (found.length === 0) return;
    if (writeMode() !== "read-write") {
      this.#unsettled = true;
      return;
    }
    await writer.restoreTombstones(found);
    await this.now({ sizes: false, subsystems: false });
  }

  /** The database or the target is away: what has no row is an orphan until they are back. */
  #onUnsettled(error: unknown): void {
    this.#options.log.debug({ err: error }, "cannot look up lvols without a row");
    this.#unsettled = true;
    this.#setOrphans(this.#unknown);
  }

  #setOrphans(orphans: readonly Listed[]): void {
    this.#orphanCounts = { ...this.#orphanCounts, orphanLvols: orphans.length };
    if (orphans.length === 0) return;
    const uuids = orphans.slice(0, 10).map(({ uuid }) => uuid);
    this.#options.log.warn(
      { count: orphans.length, uuids },
      "found orphan lvols (no row), left unchanged",
    );
  }

  /** The lvol of a tombstone is listed, because its delete failed halfway: it is deleted again. */
  #setReturned(row: LvolRow, lvol: Listed): void {
    this.#options.log.warn(
      { id: row.id, uuid: lvol.uuid },
      "lvol of a deleted volume found, deleting it again",
    );
    this.#options.observed.setLvol(row.id, {
      kind: "present",
      uuid: lvol.uuid,
      lvsUuid: lvol.store.uuid,
      sizeBytes: row.promisedBytes,
      thin: lvol.thin,
      allocatedClusters: lvol.allocatedClusters,
    });
  }
}

/**
 * The lvol of a row: by uuid once the row has one, else by the alias it was to be created under.
 */
function matching(
  row: LvolRow,
  lvols: {
    readonly byUuid: ReadonlyMap<string, Listed>;
    readonly byAlias: ReadonlyMap<string, Listed>;
  },
  rows: Rows,
): Listed | undefined {
  if (row.lvolUuid !== undefined) return lvols.byUuid.get(row.lvolUuid);
  const store = rows.disk(row.diskId)?.lvsName;
  return store === undefined ? undefined : lvols.byAlias.get(`${store}/${row.id}`);
}

function unknownLvol({ uuid, alias, store }: Listed): UnknownLvol | undefined {
  const diskId = parseStoreName(store.name)?.diskId;
  const name = alias.slice(store.name.length + 1);
  return diskId === undefined
    ? undefined
    : { uuid, nameAsId: isUuid(name) ? name : undefined, diskId };
}

function lvolsOf(bdevs: readonly Bdev[]): readonly Listed[] {
  return bdevs.flatMap((bdev) => (bdev.kind === "lvol" ? [listed(bdev)] : []));
}

/** An lvol's alias is `<lvstore name>/<lvol name>`. */
function listed({ uuid, sizeBytes, aliases, lvol }: LvolBdev): Listed {
  const [alias = ""] = aliases;
  const { thin, allocatedClusters, storeUuid } = lvol;
  const store = { uuid: storeUuid, name: alias.slice(0, Math.max(alias.indexOf("/"), 0)) };
  return { uuid, alias, thin, allocatedClusters, store, sizeBytes };
}
