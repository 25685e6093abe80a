// A look at everything that the target holds, matched with the rows. What no row knows is counted,
// named in the log and left alone: it is never changed and never removed.
import type { Logger } from "pino";
import { fleetHash, parseOwnerNqn, parseStoreName } from "../model/identity.ts";
import type { LvolRow } from "../model/lvol.ts";
import type { SpdkClient } from "../spdk/client.ts";
import type { Lvol } from "../spdk/replies-lvol.ts";
import type { Subsystem } from "../spdk/replies-nvmf.ts";
import type { Rows } from "../store/rows.ts";
import type { Seen } from "./seen.ts";
import { subsystemSeen } from "./volume-steps.ts";

/** Lvols in stores of this fleet and subsystems that no row has. */
export type Unknown = { readonly unknownLvols: number; readonly unknownSubsystems: number };

export type FullLookOptions = {
  readonly spdk: SpdkClient;
  readonly rows: Rows;
  readonly seen: Seen;
  readonly log: Logger;
  readonly fleet: string;
  readonly nqnPrefix: string;
  readonly observeDisks: () => Promise<void>;
};

export class FullLook {
  readonly #options: FullLookOptions;
  #look: Promise<void> | undefined;
  #nextLook: Promise<void> | undefined;
  #unknown: Unknown = { unknownLvols: 0, unknownSubsystems: 0 };

  constructor(options: FullLookOptions) {
    this.#options = options;
  }

  get unknown(): Unknown {
    return this.#unknown;
  }

  /** Calls that come while a look is under way share one more look after it. */
  now(): Promise<void> {
    if (this.#look === undefined) {
      this.#look = this.#lookOnce().finally(() => {
        this.#look = undefined;
      });
      return this.#look;
    }
    this.#nextLook ??= this.#look
      .catch(() => {})
      .then(() => {
        this.#nextLook = undefined;
        return this.now();
      });
    return this.#nextLook;
  }

  async #lookOnce(): Promise<void> {
    const { seen, spdk } = this.#options;
    const touched = seen.beginLook();
    const [subsystems, lvols] = await Promise.all([
      spdk.nvmfGetSubsystems(),
      spdk.bdevLvolGetLvols(),
      this.#options.observeDisks(),
    ]);
    this.#takeSubsystems(subsystems, touched);
    this.#takeLvols(lvols, touched);
  }

  #takeSubsystems(subsystems: readonly Subsystem[], touched: (id: string) => boolean): void {
    const { rows, seen, nqnPrefix } = this.#options;
    const byNqn = new Map(subsystems.map((subsystem) => [subsystem.nqn, subsystem]));
    for (const row of rows.lvols()) {
      const found = byNqn.get(row.nqn);
      byNqn.delete(row.nqn);
      if (touched(row.id)) continue;
      if (row.deleteTime === undefined) seen.setSubsystem(row.id, subsystemSeen(found));
    }
    const unknown = [...byNqn.values()].filter(
      ({ nqn, subtype }) => subtype === "NVMe" && parseOwnerNqn(nqnPrefix, nqn) === undefined,
    );
    this.#unknown = { ...this.#unknown, unknownSubsystems: unknown.length };
  }

  /**
   * The list names lvols without their sizes: what it shows as gone or as new is unknown and looked
   * at by name; what was seen present before stays as it was seen.
   */
  #takeLvols(lvols: readonly Lvol[], touched: (id: string) => boolean): void {
    const { rows, seen, fleet } = this.#options;
    const byUuid = new Map(lvols.map((lvol) => [lvol.uuid, lvol]));
    const byAlias = new Map(lvols.map((lvol) => [lvol.alias, lvol]));
    const known = new Set<string>();
    for (const row of rows.lvols()) {
      const lvol = matching(row, { byUuid, byAlias }, rows);
      if (lvol !== undefined) known.add(lvol.uuid);
      if (touched(row.id)) continue;
      if (row.deleteTime !== undefined) {
        if (lvol !== undefined) this.#returned(row, lvol);
        continue;
      }
      const before = seen.volume(row.id).lvol;
      if (lvol === undefined && before?.kind === "present") seen.setLvol(row.id, undefined);
      else if (lvol !== undefined && before?.kind === "absent") seen.setLvol(row.id, undefined);
    }
    const ours = (lvol: Lvol) => parseStoreName(lvol.store.name)?.fleet === fleetHash(fleet);
    const orphans = lvols.filter((lvol) => !known.has(lvol.uuid) && ours(lvol));
    this.#unknown = { ...this.#unknown, unknownLvols: orphans.length };
    if (orphans.length > 0) {
      const uuids = orphans.slice(0, 10).map(({ uuid }) => uuid);
      this.#options.log.warn({ count: orphans.length, uuids }, "lvols without a row; left alone");
    }
  }

  /** A delete that failed halfway: the lvol of a tombstone is back and is deleted again. */
  #returned(row: LvolRow, lvol: Lvol): void {
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
    readonly byUuid: ReadonlyMap<string, Lvol>;
    readonly byAlias: ReadonlyMap<string, Lvol>;
  },
  rows: Rows,
): Lvol | undefined {
  if (row.lvolUuid !== undefined) return lvols.byUuid.get(row.lvolUuid);
  const store = rows.disk(row.diskId)?.lvsName;
  return store === undefined ? undefined : lvols.byAlias.get(`${store}/${row.id}`);
}
