// Lvols of deleted volumes whose rows are compacted: they come back when their delete failed halfway or
// their disk was away. Their rows are brought back, and the loops delete them again.
import type { Logger } from "pino";
import { isUuid, parseStoreName } from "../../model/identity.ts";
import type { WriteMode } from "../../store/fence.ts";
import { isOf, type UnknownLvol } from "../../store/tombstones.ts";
import type { Rows } from "../../store/rows.ts";
import type { Writer } from "../../store/writer.ts";

export type ReturnedLvolsOptions = {
  readonly writer: Pick<Writer, "findTombstones" | "restoreTombstones">;
  readonly rows: Pick<Rows, "lvol" | "lvolByUuid" | "snapshots" | "subscribe">;
  readonly writeMode: () => WriteMode;
  readonly log: Logger;
  /** Called when rows were brought back. */
  readonly onRestored: () => void;
};

export type NamedLvol = {
  readonly uuid: string;
  readonly store: string;
  readonly name: string;
  /** Names of the snapshot that it is a clone of and of its own clones. */
  readonly relatives: readonly string[];
};

export class ReturnedLvols implements Disposable {
  readonly #options: ReturnedLvolsOptions;
  /** Uuids of lvols that no tombstone names, and no row since: of a row there may be a tombstone some day. */
  readonly #others = new Set<string>();
  readonly #unsubscribe: () => void;
  /** Some could not be looked up, or their rows not be brought back. */
  #unsettled = false;

  constructor(options: ReturnedLvolsOptions) {
    this.#options = options;
    const { rows } = options;
    this.#unsubscribe = rows.subscribe((changes) => {
      for (const { kind, id } of changes) {
        if (kind !== "lvol" && kind !== "snapshot") continue;
        const uuid = (rows.lvol(id) ?? rows.snapshots.get(id))?.lvolUuid;
        if (uuid !== undefined) this.#others.delete(uuid);
      }
    });
  }

  [Symbol.dispose](): void {
    this.#unsubscribe();
  }

  get unsettled(): boolean {
    return this.#unsettled;
  }

  /**
   * Which of these lvols, that no row names, are of deleted volumes. Without a database that is not known,
   * and none is.
   */
  async ofDeleted(lvols: readonly NamedLvol[]): Promise<ReadonlySet<string>> {
    const asked = lvols.flatMap((lvol) => (this.#others.has(lvol.uuid) ? [] : this.#asked(lvol)));
    if (asked.length === 0) return new Set();
    this.#unsettled = false;
    try {
      return await this.#lookUp(asked);
    } catch (error) {
      this.#options.log.debug({ err: error }, "cannot look up lvols without a row");
      this.#unsettled = true;
      return new Set();
    }
  }

  #asked({ uuid, store, name, relatives }: NamedLvol): readonly Asked[] {
    const diskId = parseStoreName(store)?.diskId;
    if (diskId === undefined) return [];
    const { rows } = this.#options;
    const [relative] = relatives.flatMap((id) => rows.lvol(id) ?? rows.snapshots.get(id) ?? []);
    const nameAsId = isUuid(name) ? name : undefined;
    return [{ uuid, nameAsId, diskId, familyRoot: relative?.familyRoot }];
  }

  /** Whether one lvol that no row names is of a deleted volume. Throws without a database. */
  async isOfDeleted(lvol: NamedLvol): Promise<boolean> {
    if (this.#others.has(lvol.uuid)) return false;
    const asked = this.#asked(lvol);
    const found = await this.#options.writer.findTombstones(asked);
    return found.some((tombstone) => asked.some((one) => isOf(tombstone, one)));
  }

  async #lookUp(asked: readonly Asked[]): Promise<ReadonlySet<string>> {
    const { writer, writeMode, onRestored } = this.#options;
    const found = await writer.findTombstones(asked);
    const deleted = new Set<string>();
    for (const lvol of asked) {
      if (found.some((tombstone) => isOf(tombstone, lvol))) deleted.add(lvol.uuid);
      else if (!this.#hasRow(lvol)) this.#others.add(lvol.uuid);
    }
    if (found.length === 0) return deleted;
    // A deleted snapshot comes back as a volume's row: only its deletion is wanted, in its family's lane.
    const restored = found.map((tombstone) => {
      const familyRoot = asked.find((lvol) => isOf(tombstone, lvol))?.familyRoot;
      return familyRoot === undefined ? tombstone : { ...tombstone, familyRoot };
    });
    if (writeMode() === "read-write" && (await writer.restoreTombstones(restored))) onRestored();
    else this.#unsettled = true;
    return deleted;
  }

  /** By now: the tombstones were asked for before. */
  #hasRow({ uuid }: UnknownLvol): boolean {
    const { rows } = this.#options;
    return rows.lvolByUuid(uuid) !== undefined || rows.snapshots.byUuid(uuid) !== undefined;
  }
}

/** familyRoot: of the clone family that a relative of it is known to be in. */
type Asked = UnknownLvol & { readonly familyRoot: string | undefined };
