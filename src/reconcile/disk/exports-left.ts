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
  if (row.transport === "PCIe") return source.usedWith(row);
  const name = source.observed.disk(row.id)?.controllerName;
  return name === undefined ? [] : usedOnFabricWith(source, row, name);
}

/** Disks that are attached under this name. */
export function disksOn(
  { rows, observed }: Pick<Source, "rows"> & { readonly observed: Pick<Observed, "disk"> },
  controllerName: string,
): readonly DiskRow[] {
  const isOn = ({ id }: DiskRow) => observed.disk(id)?.controllerName === controllerName;
  return [...rows.disks()].filter(isOn);
}

/** Other disks than this one that are in use on a controller of a fabric: `serial/nsid`. */
export function usedOnFabricWith(
  source: Pick<Source, "rows" | "observed">,
  { id }: Pick<DiskRow, "id">,
  controllerName: string,
): readonly string[] {
  const isUsed = (other: DiskRow) => {
    if (other.wanted === "release") return exportsLeft(source, other) > 0;
    return other.lvsUuid !== undefined || source.observed.disk(other.id)?.store !== undefined;
  };
  return disksOn(source, controllerName)
    .filter((other) => other.id !== id && isUsed(other))
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
