// A controller on a fabric may have several namespaces, and a detach takes all of them: when it may be detached.
import type { Config } from "../../config.ts";
import type { FabricDisk } from "../../config-disks.ts";
import type { DiskRow } from "../../model/disk.ts";
import { controllerName } from "../../model/identity.ts";
import { isInGrace, type PendingContext } from "../../model/pending-op.ts";
import type { Rows } from "../../store/rows.ts";
import type { LaneKey } from "../engine/lanes.ts";
import type { StepResult } from "../engine/kind.ts";
import type { FoundDisk } from "../target/disks-on-target.ts";
import type { Observed } from "../target/observed.ts";
import { exportsLeft } from "./exports-left.ts";

export type FabricUse = {
  readonly config: Pick<Config, "fabricDisks">;
  readonly rows: Rows;
  readonly observed: Pick<Observed, "volume" | "disk">;
};

type About = {
  /** Ids of the disks for which it is to be detached. */
  readonly besides: readonly string[];
  /** Disks on the target, as just listed; none: as observed. */
  readonly found?: readonly FoundDisk[];
};

export function isEntry(
  entry: FabricDisk,
  disk: { readonly serial: string; readonly nsid: number },
): boolean {
  return entry.serial === disk.serial && entry.nsid === disk.nsid;
}

/** The entry of a disk in STORAGE_NODE_FABRIC_DISKS, by serial and nsid. */
export function entryOf(
  { fabricDisks }: Pick<Config, "fabricDisks">,
  row: DiskRow,
): FabricDisk | undefined {
  if (row.transport === "PCIe") return undefined;
  return fabricDisks.find((entry) => isEntry(entry, row));
}

/** Disks that are attached under this name, and those that are not attached and whose entry is there. */
export function disksOn({ config, rows, observed }: FabricUse, name: string): readonly DiskRow[] {
  return [...rows.disks()].filter((row) => {
    const attachedAs = observed.disk(row.id)?.controllerName;
    if (attachedAs !== undefined) return attachedAs === name;
    const entry = entryOf(config, row);
    return entry !== undefined && controllerName(entry) === name;
  });
}

/** The lanes of a controller and of all disks on it. */
export function lanesOn(source: FabricUse, name: string): readonly LaneKey[] {
  const disks = new Set([name, ...disksOn(source, name).map(({ id }) => id)]);
  return [...disks].map((disk) => ({ kind: "disk", disk, mode: "exclusive" }));
}

/**
 * What else on a controller is in use, or would be attached again at once: `serial/nsid` of each disk of this
 * node that is not released.
 */
export function usedOnFabric(
  source: FabricUse,
  name: string,
  { besides, found = [] }: About,
): readonly string[] {
  const { config, rows } = source;
  const shown = found.filter((disk) => disk.controllerName === name);
  const there = [...disksOn(source, name), ...shown.flatMap(({ id }) => rows.disk(id) ?? [])];
  const used = there.filter((row) => row.wanted !== "release" || exportsLeft(source, row) > 0);
  const isNew = (disk: FoundDisk) =>
    rows.disk(disk.id) === undefined && config.fabricDisks.some((entry) => isEntry(entry, disk));
  const others = [...used, ...shown.filter(isNew)].filter(({ id }) => !besides.includes(id));
  return [...new Set(others.map(({ serial, nsid }) => `${serial}/${nsid}`))];
}

/** Of a disk: the exports of its volumes, and the other disks that would be detached with it or could not be given back. */
export function releaseFacts(
  source: FabricUse & {
    /** Of local disks: what goes together with their controllers. */
    readonly usedWith: (row: DiskRow) => readonly string[];
  },
  row: DiskRow,
) {
  const heldBy = row.wanted === "release" ? heldByOf(source, row) : [];
  return { exportsLeft: exportsLeft(source, row), heldBy };
}

function heldByOf(source: Parameters<typeof releaseFacts>[0], row: DiskRow): readonly string[] {
  if (row.transport === "PCIe") return source.usedWith(row);
  const name = source.observed.disk(row.id)?.controllerName;
  return name === undefined ? [] : usedOnFabric(source, name, { besides: [row.id] });
}

/** Why a controller must stay attached now; undefined: nothing is lost with it. */
export function keptOnFabric(
  source: FabricUse & { readonly pending: (now: Date) => PendingContext },
  name: string,
  about: About,
): StepResult | undefined {
  const used = usedOnFabric(source, name, about);
  if (used.length > 0) return { kind: "retry", message: `${used.join(", ")} is in use with it` };
  if (!isInGrace(source.pending(new Date()))) return undefined;
  const message = "an earlier agent may be changing it";
  return { kind: "retry", message, unanswered: "not-sent" };
}
