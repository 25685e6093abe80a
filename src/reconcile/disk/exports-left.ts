// What a disk that is to be released cannot be detached under: the exports of its volumes that are not seen to
// be gone.
import type { DiskRow } from "../../model/disk.ts";
import type { Rows } from "../../store/rows.ts";
import type { Observed } from "../target/observed.ts";

/** How many there are, of a disk that is to be released; 0 of any other: nobody asks. */
export function exportsLeft(
  { rows, observed }: { readonly rows: Rows; readonly observed: Pick<Observed, "volume"> },
  { id, wanted }: DiskRow,
): number {
  if (wanted !== "release") return 0;
  return [...rows.lvolIdsOn(id)].filter((volume) => {
    const { subsystem } = observed.volume(volume);
    const row = rows.lvol(volume);
    // Somebody else made it under the NQN of the volume: it is left alone, and nobody would end it.
    if (subsystem?.kind === "present" && subsystem.serialNumber !== row?.serialNumber) return false;
    // Of a tombstone nothing is read unless something of it was found.
    const isOver = row?.deleteTime !== undefined && subsystem === undefined;
    return subsystem?.kind !== "absent" && !isOver;
  }).length;
}
