// What a disk that is to be released cannot be detached under: the exports of its volumes that are not seen to
// be gone, and other disks of its controller that are in use.
import type { DiskRow } from "../../model/disk.ts";
import type { Rows } from "../../store/rows.ts";
import type { Observed } from "../target/observed.ts";

type Source = {
  readonly rows: Rows;
  readonly observed: Pick<Observed, "volume" | "disk">;
  /** Of local disks: what goes together with their controllers. */
  readonly usedWith: (row: DiskRow) => readonly string[];
};

export function releaseFacts(source: Source, row: DiskRow) {
  const heldBy = row.wanted === "release" ? heldByOf(source, row) : [];
  return { exportsLeft: exportsLeft(source, row), heldBy };
}

/** Other disks that are in use and would be detached with it, or could not be given back: `serial/nsid`. */
function heldByOf(source: Source, row: DiskRow): readonly string[] {
  return row.transport === "PCIe" ? source.usedWith(row) : usedOnFabricWith(source, row);
}

/** Other disks in use that have the controller of a disk on a fabric: `serial/nsid`. */
export function usedOnFabricWith(
  { rows, observed }: Pick<Source, "rows"> & { readonly observed: Pick<Observed, "disk"> },
  row: DiskRow,
): readonly string[] {
  const name = observed.disk(row.id)?.controllerName;
  return [...rows.disks()]
    .filter((other) => other.id !== row.id && observed.disk(other.id)?.controllerName === name)
    .filter((other) => other.wanted !== "release" && other.lvsUuid !== undefined)
    .map(({ serial, nsid }) => `${serial}/${nsid}`);
}

/** How many there are, of a disk that is to be released; 0 of any other: nobody asks. */
export function exportsLeft(
  { rows, observed }: Pick<Source, "rows"> & { readonly observed: Pick<Observed, "volume"> },
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
