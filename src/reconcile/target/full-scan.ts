// A look at everything that the target holds, matched with the rows. What no row knows is counted,
// named in the log and left alone: it is never changed and never removed.
import { setImmediate } from "node:timers/promises";
import type { Logger } from "pino";
import { fleetHash, parseOwnerNqn, parseStoreName } from "../../model/identity.ts";
import type { LvolRow } from "../../model/lvol.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import { SpdkUnknownOutcome } from "../../spdk/errors.ts";
import type { Bdev, LvolBdev } from "../../spdk/replies-bdev.ts";
import type { Lvol } from "../../spdk/replies-lvol.ts";
import type { Subsystem } from "../../spdk/replies-nvmf.ts";
import type { Rows } from "../../store/rows.ts";
import type { FoundDisks } from "../disk/disks-on-target.ts";
import type { ObservedSince, Observed } from "./observed.ts";
import { observedSubsystem } from "../lvol/perform.ts";

/** Lvols in stores of this fleet and subsystems that no row has. */
export type OrphanCounts = { readonly orphanLvols: number; readonly orphanSubsystems: number };

/** An lvol as a list shows it; bdev_lvol_get_lvols leaves sizes out. */
type Listed = Pick<Lvol, "uuid" | "alias" | "thin" | "allocatedClusters" | "store"> & {
  readonly sizeBytes: bigint | undefined;
};

/** What was read, to be taken over in one go: nothing may be planned from half of it. */
export type Found = {
  /** Undefined: not asked for. */
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
  readonly disks: {
    /** bdevs: what a list of them all showed, where there is one. */
    readonly scan: (bdevs?: Promise<readonly Bdev[]>) => Promise<FoundDisks>;
    readonly apply: (disks: FoundDisks) => void;
    readonly ensureFabricDisksAttached: (disks: FoundDisks) => void;
  };
};

export type ScanOptions = {
  /** Where sizes are needed of all, one list of all bdevs is cheaper than a question about each. */
  readonly sizes: boolean;
  /** Attaching a disk changes none. */
  readonly subsystems: boolean;
};

export class FullScan {
  readonly #options: FullScanOptions;
  #scan: Promise<void> | undefined;
  /** Asked for and not sent yet: whoever asks meanwhile gets it too. */
  #next: { options: ScanOptions; readonly taken: Promise<void> } | undefined;
  /** A list of all bdevs did not come: past 32 MiB it never does (CONTRACT section 0.8). Until a new run. */
  #listTooLong = false;
  #orphanCounts: OrphanCounts = { orphanLvols: 0, orphanSubsystems: 0 };

  constructor(options: FullScanOptions) {
    this.#options = options;
  }

  /** The target restarted: lists are short again. */
  beginIncarnation(): void {
    this.#listTooLong = false;
  }

  get orphanCounts(): OrphanCounts {
    return this.#orphanCounts;
  }

  /** Looks after whatever look is under way; calls of one turn, and until it is sent, share it. */
  now(options: ScanOptions): Promise<void> {
    if (this.#next !== undefined) {
      const { sizes, subsystems } = this.#next.options;
      this.#next.options = {
        sizes: sizes || options.sizes,
        subsystems: subsystems || options.subsystems,
      };
      return this.#next.taken;
    }
    const before = this.#scan ?? Promise.resolve();
    const taken = before
      .catch(() => {})
      .then(() => setImmediate())
      .then(() => {
        const wanted = this.#next?.options ?? options;
        this.#next = undefined;
        this.#scan = this.read(wanted).then((found) => this.apply(found));
        return this.#scan;
      });
    this.#next = { options, taken };
    return taken;
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

  /** Takes over what was read, in this tick. */
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
    const orphanCounts = [...byNqn.values()].filter(
      ({ nqn, subtype }) => subtype === "NVMe" && parseOwnerNqn(nqnPrefix, nqn) === undefined,
    );
    this.#orphanCounts = { ...this.#orphanCounts, orphanSubsystems: orphanCounts.length };
  }

  /**
   * What a list without sizes shows as gone or as new is unknown and looked at by name; what was seen
   * present before stays as it was seen. An lvol whose uuid is the row's needs no second look.
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
        if (lvol !== undefined) this.#returned(row, lvol);
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
    const orphans = lvols.filter((lvol) => !known.has(lvol.uuid) && ours(lvol));
    this.#orphanCounts = { ...this.#orphanCounts, orphanLvols: orphans.length };
    if (orphans.length > 0) {
      const uuids = orphans.slice(0, 10).map(({ uuid }) => uuid);
      this.#options.log.warn({ count: orphans.length, uuids }, "lvols without a row; left alone");
    }
  }

  /** A delete that failed halfway: the lvol of a tombstone is back and is deleted again. */
  #returned(row: LvolRow, lvol: Listed): void {
    this.#options.log.warn({ id: row.id, uuid: lvol.uuid }, "deleted lvol is back");
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

/** The lvol of a row: by uuid once one was seen, else by the name it was to be made under. */
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

function lvolsOf(bdevs: readonly Bdev[]): readonly Listed[] {
  return bdevs.flatMap((bdev) => (bdev.kind === "lvol" ? [listed(bdev)] : []));
}

/** Its alias is `<store name>/<lvol name>`. */
function listed({ uuid, sizeBytes, aliases, lvol }: LvolBdev): Listed {
  const [alias = ""] = aliases;
  const { thin, allocatedClusters, storeUuid } = lvol;
  const store = { uuid: storeUuid, name: alias.slice(0, Math.max(alias.indexOf("/"), 0)) };
  return { uuid, alias, thin, allocatedClusters, store, sizeBytes };
}
