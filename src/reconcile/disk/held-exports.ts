// Which exports of a disk are held back while its free clusters may hold old bytes, and which are not although
// their hosts may be shown some (docs/architecture.md#exports-held-back).
import type { Config } from "../../config.ts";
import type { DiskRow } from "../../model/disk.ts";
import type { LvolRow, ObservedVolume } from "../../model/lvol.ts";
import { zeroesByItself } from "../../model/zeroing.ts";
import { takesClusters, zeroingHold, type Hold } from "../../model/zeroing-hold.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Rows } from "../../store/rows.ts";
import type { Observed } from "../target/observed.ts";
import { mayBeDirty } from "./free-space.ts";
import type { Slices } from "./slices.ts";

type Settings = Pick<Config, "isolation" | "zeroing" | "zeroingHoldMs">;

export type HoldSource = Settings & {
  readonly rows: Rows;
  readonly observed: Observed;
  readonly slices: Pick<Slices, "of">;
  readonly writeMode: () => WriteMode;
};

/** Why the volume is not made reachable yet; undefined: it may be, or is. */
export function heldExport(
  source: HoldSource,
  {
    row,
    volume,
    now,
  }: { readonly row: LvolRow; readonly volume: ObservedVolume; readonly now: Date },
): Hold | undefined {
  const { rows, observed, slices, isolation, zeroingHoldMs: holdMs } = source;
  const disk = rows.disk(row.diskId);
  if (isolation === "trusted" || holdMs === 0 || disk === undefined) return undefined;
  if (isListening(volume) || !mayTakeClusters(row, volume, disk)) return undefined;
  if (!isDirty(source, disk)) return undefined;
  const store = observed.disk(disk.id)?.store;
  const held = (slices.of(disk.id) ?? []).reduce((sum, { bytes }) => sum + bytes, 0n);
  const free = (store?.freeClusters ?? 0n) * (store?.clusterBytes ?? 0n);
  return zeroingHold({
    holdMs,
    since: observed.storeSince(disk.id),
    now,
    // While the database is away, nothing is zeroed.
    isWanted:
      source.writeMode() === "read-write" &&
      (zeroesByItself(source) || disk.zeroRequestedTime !== undefined),
    // Once slices hold all that may be dirty, what is free is clean.
    bytesLeft: disk.zeroing === undefined ? held + free : held,
    rate: disk.zeroingRate,
  });
}

/** Its hosts may be shown old bytes, as is recorded of its disk. */
export function isExposed(
  { rows, isolation }: Pick<HoldSource, "rows" | "isolation">,
  row: LvolRow,
  volume: ObservedVolume,
): boolean {
  const disk = rows.disk(row.diskId);
  if (disk === undefined || disk.freeSpace === "ZEROED" || isolation === "trusted") return false;
  if (rows.copied) return false;
  return isListening(volume) && mayTakeClusters(row, volume, disk);
}

type ExposureSource = Omit<HoldSource, keyof Settings> & { readonly config: Settings };

/** What is shown of a disk that may be dirty, of which the local copy does not say whether it is. */
export function exposureShown(source: ExposureSource, disk: DiskRow) {
  return { copied: source.rows.copied, exposure: exposure(source, disk) };
}

/** How many volumes take clusters of a dirty disk: reachable for hosts, and held back. */
function exposure({ config, ...parts }: ExposureSource, disk: DiskRow) {
  const source = { ...parts, ...config };
  const { rows, observed, isolation } = source;
  const found = { reachable: 0, held: 0 };
  if (isolation === "trusted" || !isDirty(source, disk)) return found;
  const now = new Date();
  for (const id of rows.lvolIdsOn(disk.id)) {
    const row = rows.lvol(id);
    if (row === undefined || row.deleteTime !== undefined) continue;
    const volume = observed.volume(id);
    if (!mayTakeClusters(row, volume, disk)) continue;
    if (isListening(volume)) found.reachable += 1;
    else if (heldExport(source, { row, volume, now }) !== undefined) found.held += 1;
  }
  return found;
}

function isDirty({ rows, observed }: Pick<HoldSource, "rows" | "observed">, disk: DiskRow) {
  // The local copy does not say what free clusters hold.
  if (disk.lvsUuid === undefined || rows.copied) return false;
  return disk.freeSpace !== "ZEROED" || mayBeDirty(rows, observed, disk.id);
}

function isListening({ subsystem }: ObservedVolume): boolean {
  return subsystem?.kind === "present" && subsystem.listeners.length > 0;
}

function mayTakeClusters(row: LvolRow, { lvol }: ObservedVolume, disk: DiskRow): boolean {
  return lvol === undefined ? row.thin : takesClusters(lvol, disk.clusterBytes);
}
