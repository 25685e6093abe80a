// Lvols of deleted volumes whose rows are compacted: they come back when their delete failed halfway or
// their disk was away. Their rows are brought back, and the loops delete them again.
import type { Logger } from "pino";
import { isUuid, parseStoreName } from "../../model/identity.ts";
import type { WriteMode } from "../../store/fence.ts";
import { isOf, type UnknownLvol } from "../../store/tombstones.ts";
import type { Writer } from "../../store/writer.ts";

export type ReturnedLvolsOptions = {
  readonly writer: Pick<Writer, "findTombstones" | "restoreTombstones">;
  readonly writeMode: () => WriteMode;
  readonly log: Logger;
  /** Called when rows were brought back. */
  readonly onRestored: () => void;
};

export type NamedLvol = { readonly uuid: string; readonly store: string; readonly name: string };

export class ReturnedLvols {
  readonly #options: ReturnedLvolsOptions;
  /** Uuids of lvols that no tombstone names. */
  readonly #others = new Set<string>();
  /** Some could not be looked up, or their rows not be brought back. */
  #unsettled = false;

  constructor(options: ReturnedLvolsOptions) {
    this.#options = options;
  }

  get unsettled(): boolean {
    return this.#unsettled;
  }

  /**
   * Which of these lvols, that no row names, are of deleted volumes. Without a database that is not known,
   * and none is.
   */
  async ofDeleted(lvols: readonly NamedLvol[]): Promise<ReadonlySet<string>> {
    const asked = lvols.flatMap((lvol) => (this.#others.has(lvol.uuid) ? [] : unknownLvol(lvol)));
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

  async #lookUp(asked: readonly UnknownLvol[]): Promise<ReadonlySet<string>> {
    const { writer, writeMode, onRestored } = this.#options;
    const found = await writer.findTombstones(asked);
    const deleted = new Set<string>();
    for (const lvol of asked) {
      const isDeleted = found.some((tombstone) => isOf(tombstone, lvol));
      (isDeleted ? deleted : this.#others).add(lvol.uuid);
    }
    if (found.length === 0) return deleted;
    if (writeMode() === "read-write" && (await writer.restoreTombstones(found))) onRestored();
    else this.#unsettled = true;
    return deleted;
  }
}

function unknownLvol({ uuid, store, name }: NamedLvol): readonly UnknownLvol[] {
  const diskId = parseStoreName(store)?.diskId;
  return diskId === undefined ? [] : [{ uuid, nameAsId: isUuid(name) ? name : undefined, diskId }];
}
