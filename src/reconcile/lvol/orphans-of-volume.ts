// What is on the node under a volume's id while no row has the id, or in a disk's store without any row. It is
// read from the target by name, so that "nothing" is an answer and no guess. Changes nothing.
import { diskState, type DiskReadiness, type DiskRow } from "../../model/disk.ts";
import { Refusal } from "../../model/errors.ts";
import { parseStoreName, volumeNqn } from "../../model/identity.ts";
import type { Orphan } from "../../model/orphan.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { Rows } from "../../store/rows.ts";
import { askingOne, requireTarget, storeLoading } from "../target/asking.ts";
import type { Observed } from "../target/observed.ts";
import { partsOf } from "../target/lvol-alias.ts";
import { type Orphans } from "../target/orphans.ts";

export type OrphansOfVolumeContext = {
  readonly rows: Rows;
  readonly observed: Observed;
  readonly orphans: Orphans;
  readonly nqnPrefix: string;
  readonly diskReadiness: (row: DiskRow) => DiskReadiness;
};

/** Throws a Refusal while the target, or a store of this node that is to be loaded, cannot be read. */
export async function orphansOfVolume(
  context: OrphansOfVolumeContext,
  id: string,
): Promise<readonly Orphan[]> {
  const { rows, observed, orphans, nqnPrefix } = context;
  requireTarget(observed);
  requireStores(context);
  const stores = [...rows.disks()].flatMap((row) => observed.disk(row.id)?.store ?? []);
  await askingOne(observed, () =>
    Promise.all([
      // An lvol that was known and is gone is not known by its alias.
      orphans.readLvols(orphans.named(id).flatMap(({ uuid }) => uuid ?? [])),
      orphans.readLvols(stores.map(({ name }) => `${name}/${id}`)),
      orphans.readSubsystems([volumeNqn(nqnPrefix, id)]),
    ]),
  );
  requireStores(context);
  return orphans.named(id);
}

/** The lvols without a row in the store that is loaded from a disk. Throws a Refusal if that is not known. */
export async function orphansOfDisk(
  context: OrphansOfVolumeContext & { readonly spdk: Pick<SpdkClient, "getLvols"> },
  { diskId, storeUuid }: { readonly diskId: string; readonly storeUuid: string },
): Promise<readonly Orphan[]> {
  const { observed, orphans, spdk } = context;
  await askingOne(observed, async () => {
    const lvols = await spdk.getLvols({ uuid: storeUuid });
    if (lvols === undefined) throw storeLoading(diskId);
    await orphans.readListed(lvols);
  });
  return orphans.list().filter((orphan) => orphan.diskId === diskId);
}

/**
 * What the read finds; undefined if nothing is there. Nothing is found in a store that is not loaded, so that throws a
 * Refusal if any store of this node was not.
 */
export async function foundOrAbsent<T>(
  context: OrphansOfVolumeContext,
  read: () => Promise<T | undefined>,
): Promise<T | undefined> {
  const loading = loadingDisk(context);
  const found = await askingOne(context.observed, read);
  if (found !== undefined) return found;
  const disk = loading ?? loadingDisk(context);
  if (disk !== undefined) throw storeLoading(disk);
  return undefined;
}

function requireStores(context: OrphansOfVolumeContext): void {
  const disk = loadingDisk(context);
  if (disk !== undefined) throw storeLoading(disk);
}

/** A disk that is MISSING, FAILED or not ours any more is not waited for. */
function loadingDisk({ rows, diskReadiness }: OrphansOfVolumeContext): string | undefined {
  for (const row of rows.disks()) {
    if (row.lvsUuid === undefined && row.adoptedStore === undefined) continue;
    if (diskState(row, diskReadiness(row)) === "CLAIMING") return row.id;
  }
  return undefined;
}

/** The disk of this node whose lvstore an lvol's name begins with. */
export function diskOf(
  { rows, observed, diskReadiness }: OrphansOfVolumeContext,
  alias: string,
): DiskRow {
  const { store } = partsOf({ aliases: [alias] });
  const row = rows.disk(parseStoreName(store)?.diskId ?? "");
  if (row === undefined || row.lvsUuid === undefined || row.lvsName !== store) {
    throw new Refusal("NOT_FOUND", `lvstore ${store} is not one of this node`);
  }
  const { ready, reason } = diskReadiness(row);
  if (ready && observed.disk(row.id)?.store?.uuid === row.lvsUuid) return row;
  if (row.state === "UP" || row.state === "CLAIMING") throw storeLoading(row.id);
  throw new Refusal("DISK_NOT_UP", `disk ${row.id} is ${row.state}: ${reason}`);
}

export function diskBusy({ id, pendingOp: op }: Pick<DiskRow, "id" | "pendingOp">): Refusal {
  return new Refusal(
    "DISK_NOT_UP",
    `disk ${id} is being changed (${op?.op ?? "new intent"}): ask again`,
  );
}
