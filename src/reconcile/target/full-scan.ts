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
import type { Newer, Seen } from "./observed.ts";
import { subsystemSeen } from "../lvol/perform.ts";

/** Lvols in stores of this fleet and subsystems that no row has. */
export type Unknown = { readonly unknownLvols: number; readonly unknownSubsystems: number };

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
  readonly newer: Newer;
};

export type FullLookOptions = {
  readonly spdk: SpdkClient;
  readonly rows: Rows;
  readonly seen: Seen;
  readonly log: Logger;
  readonly fleet: string;
  readonly nqnPrefix: string;
  readonly disks: {
    /** bdevs: what a list of them all showed, where there is one. */
    readonly list: (bdevs?: Promise<readonly Bdev[]>) => Promise<FoundDisks>;
    readonly take: (disks: FoundDisks) => void;
    readonly meet: (disks: FoundDisks) => void;
  };
};

export type LookOptions = {
  /** Where sizes are needed of all, one list of all bdevs is cheaper than a question about each. */
  readonly sizes: boolean;
  /** Attaching a disk changes none. */
  readonly subsystems: boolean;
};

export class FullLook {
  readonly #options: FullLookOptions;
  #look: Promise<void> | undefined;
  /** Asked for and not sent yet: whoever asks meanwhile gets it too. */
  #next: { options: LookOptions; readonly taken: Promise<void> } | undefined;
  /** A list of all bdevs did not come: past 32 MiB it never does (CONTRACT section 0.8). Until a new run. */
  #tooMany = false;
  #unknown: Unknown = { unknownLvols: 0, unknownSubsystems: 0 };

  constructor(options: FullLookOptions) {
    this.#options = options;
  }

  /** The target restarted: lists are short again. */
  beginRun(): void {
    this.#tooMany = false;
  }

  get unknown(): Unknown {
    return this.#unknown;
  }

  /** Looks after whatever look is under way; calls of one turn, and until it is sent, share it. */
  now(options: LookOptions): Promise<void> {
    if (this.#next !== undefined) {
      const { sizes, subsystems } = this.#next.options;
      this.#next.options = {
        sizes: sizes || options.sizes,
        subsystems: subsystems || options.subsystems,
      };
      return this.#next.taken;
    }
    const before = this.#look ?? Promise.resolve();
    const taken = before
      .catch(() => {})
      .then(() => setImmediate())
      .then(() => {
        const wanted = this.#next?.options ?? options;
        this.#next = undefined;
        this.#look = this.read(wanted).then((found) => this.take(found));
        return this.#look;
      });
    this.#next = { options, taken };
    return taken;
  }

  async read({ sizes, subsystems: all }: LookOptions): Promise<Found> {
    const { seen, spdk, disks } = this.#options;
    const newer = seen.beginLook();
    const bdevs = sizes && !this.#tooMany ? this.#listBdevs() : undefined;
    try {
      const [subsystems, lvols, found] = await Promise.all([
        all ? spdk.nvmfGetSubsystems() : undefined,
        bdevs === undefined ? this.#listLvols() : bdevs.then(lvolsOf),
        disks.list(bdevs),
      ]);
      return { subsystems, lvols, disks: found, newer };
    } catch (error) {
      newer.end();
      throw error;
    }
  }

  /** Takes over what was read, in this tick. */
  take({ subsystems, lvols, disks, newer }: Found): void {
    this.#options.disks.take(disks);
    if (subsystems !== undefined) this.#takeSubsystems(subsystems, newer);
    this.#takeLvols(lvols, newer);
    newer.end();
    this.#options.disks.meet(disks);
  }

  async #listLvols(): Promise<readonly Listed[]> {
    const lvols = await this.#options.spdk.bdevLvolGetLvols();
    return lvols.map((lvol) => ({ ...lvol, sizeBytes: undefined }));
  }

  async #listBdevs(): Promise<readonly Bdev[]> {
    try {
      return await this.#options.spdk.bdevGetBdevs();
    } catch (error) {
      this.#tooMany = error instanceof SpdkUnknownOutcome;
      throw error;
    }
  }

  #takeSubsystems(subsystems: readonly Subsystem[], newer: Newer): void {
    const { rows, seen, nqnPrefix } = this.#options;
    const byNqn = new Map(subsystems.map((subsystem) => [subsystem.nqn, subsystem]));
    for (const row of rows.lvols()) {
      const found = byNqn.get(row.nqn);
      byNqn.delete(row.nqn);
      if (newer.subsystems.has(row.id)) continue;
      if (row.deleteTime === undefined) seen.setSubsystem(row.id, subsystemSeen(found));
    }
    const unknown = [...byNqn.values()].filter(
      ({ nqn, subtype }) => subtype === "NVMe" && parseOwnerNqn(nqnPrefix, nqn) === undefined,
    );
    this.#unknown = { ...this.#unknown, unknownSubsystems: unknown.length };
  }

  /**
   * What a list without sizes shows as gone or as new is unknown and looked at by name; what was seen
   * present before stays as it was seen. An lvol whose uuid is the row's needs no second look.
   */
  #takeLvols(lvols: readonly Listed[], newer: Newer): void {
    const { rows, seen, fleet } = this.#options;
    const byUuid = new Map(lvols.map((lvol) => [lvol.uuid, lvol]));
    const byAlias = new Map(lvols.map((lvol) => [lvol.alias, lvol]));
    const known = new Set<string>();
    for (const row of rows.lvols()) {
      const lvol = matching(row, { byUuid, byAlias }, rows);
      if (lvol !== undefined) known.add(lvol.uuid);
      if (newer.lvols.has(row.id)) continue;
      if (row.deleteTime !== undefined) {
        if (lvol !== undefined) this.#returned(row, lvol);
        continue;
      }
      const before = seen.volume(row.id).lvol;
      if (lvol?.sizeBytes !== undefined && lvol.uuid === row.lvolUuid) {
        const { uuid, sizeBytes, thin, allocatedClusters, store } = lvol;
        const lvsUuid = store.uuid;
        seen.setLvol(row.id, {
          kind: "present",
          uuid,
          lvsUuid,
          sizeBytes,
          thin,
          allocatedClusters,
        });
      } else if (lvol === undefined && before?.kind === "present") seen.setLvol(row.id, undefined);
      else if (lvol !== undefined && before?.kind === "absent") seen.setLvol(row.id, undefined);
    }
    const ours = (lvol: Listed) => parseStoreName(lvol.store.name)?.fleet === fleetHash(fleet);
    const orphans = lvols.filter((lvol) => !known.has(lvol.uuid) && ours(lvol));
    this.#unknown = { ...this.#unknown, unknownLvols: orphans.length };
    if (orphans.length > 0) {
      const uuids = orphans.slice(0, 10).map(({ uuid }) => uuid);
      this.#options.log.warn({ count: orphans.length, uuids }, "lvols without a row; left alone");
    }
  }

  /** A delete that failed halfway: the lvol of a tombstone is back and is deleted again. */
  #returned(row: LvolRow, lvol: Listed): void {
    this.#options.log.warn({ id: row.id, uuid: lvol.uuid }, "deleted lvol is back");
    this.#options.seen.setLvol(row.id, {
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
