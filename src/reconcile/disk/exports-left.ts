// What a disk that is to be released cannot be detached under: the exports of its volumes that are not seen to
// be gone, and other disks of its controller that are in use.
import type { DiskRow } from "../../model/disk.ts";
import type { Rows } from "../../store/rows.ts";
import type { Observed } from "../target/observed.ts";

type Source = { readonly rows: Rows; readonly observed: Pick<Observed, "volume" | "disk"> };

export function releaseFacts(source: Source, row: DiskRow) {
  return { exportsLeft: exportsLeft(source, row), heldBy: heldBy(source, row) };
}

/** How many there are, of a disk that is to be released; 0 of any other: nobody asks. */
export function exportsLeft(
  { rows, observed }: Pick<Source, "rows"> & { readonly observed: Pick<Observed, "volume"> },
  { id, wanted }: DiskRow,
): number {
  if (wanted !== "release") return 0;
  return [...rows.lvolIdsOn(id)].filter((volume) => {
    const { subsystem } = observed.volume(volume);
    // Of a tombstone nothing is read unless something of it was found.
    const isOver = rows.lvol(volume)?.deleteTime !== undefined && subsystem === undefined;
    return subsystem?.kind !== "absent" && !isOver;
  }).length;
}

/** Of a disk that is to be released: others in use, which would be detached with it. */
function heldBy({ rows, observed }: Source, { id, wanted }: DiskRow): readonly string[] {
  const name = wanted === "release" ? observed.disk(id)?.controllerName : undefined;
  if (name === undefined) return [];
  return [...rows.disks()]
    .filter((other) => other.id !== id && observed.disk(other.id)?.controllerName === name)
    .filter((other) => other.wanted !== "release" && other.lvsUuid !== undefined)
    .map(({ serial, nsid }) => `disk ${serial}/${nsid}`);
}
