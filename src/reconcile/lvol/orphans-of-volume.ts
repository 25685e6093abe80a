// What is on the node under a volume's id while no row has the id. It is read from the target by name, so
// that "nothing" is an answer and no guess. Changes nothing.
import { diskState, type DiskReadiness, type DiskRow } from "../../model/disk.ts";
import { Refusal } from "../../model/errors.ts";
import { parseStoreName, volumeNqn } from "../../model/identity.ts";
import type { Orphan } from "../../model/orphan.ts";
import { SpdkError, SpdkNotSent, SpdkUnknownOutcome } from "../../spdk/errors.ts";
import type { Rows } from "../../store/rows.ts";
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
  const { incarnation } = observed;
  await asking(
    Promise.all([
      // An lvol that was known and is gone is not known by its alias.
      orphans.readLvols(orphans.named(id).flatMap(({ uuid }) => uuid ?? [])),
      orphans.readLvols(stores.map(({ name }) => `${name}/${id}`)),
      orphans.readSubsystems([volumeNqn(nqnPrefix, id)]),
    ]),
  );
  requireSame(observed, incarnation);
  requireStores(context);
  return orphans.named(id);
}

/**
 * What the read finds; undefined if nothing is there. Nothing is found in a store that is not loaded, so that throws a
 * Refusal if any store of this node was not, or if the target was restarted while it was asked.
 */
export async function foundOrAbsent<T>(
  context: OrphansOfVolumeContext,
  read: () => Promise<T | undefined>,
): Promise<T | undefined> {
  const { observed } = context;
  requireTarget(observed);
  const { incarnation } = observed;
  const loading = loadingDisk(context);
  const found = await asking(read());
  if (found !== undefined) return found;
  requireSame(observed, incarnation);
  const disk = loading ?? loadingDisk(context);
  if (disk !== undefined) throw storeLoading(disk);
  return undefined;
}

export function requireTarget({ incarnation }: Pick<Observed, "incarnation">): void {
  if (incarnation !== undefined) return;
  throw targetDown("the SPDK target does not answer, or is not identified");
}

/** Another incarnation has loaded its stores anew: what was read is of the one before. */
function requireSame(observed: Pick<Observed, "incarnation">, incarnation: unknown): void {
  if (observed.incarnation !== incarnation) throw targetDown("the SPDK target was restarted");
}

function requireStores(context: OrphansOfVolumeContext): void {
  const disk = loadingDisk(context);
  if (disk !== undefined) throw storeLoading(disk);
}

/** A disk that is MISSING, FAILED or not ours any more is not waited for. */
function loadingDisk({ rows, diskReadiness }: OrphansOfVolumeContext): string | undefined {
  for (const row of rows.disks()) {
    if (row.lvsUuid === undefined) continue;
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

function storeLoading(diskId: string): Refusal {
  return new Refusal("STORE_LOADING", `the lvstore of disk ${diskId} is not loaded yet`, {
    metadata: { disk: diskId },
    retryAfterMs: 1_000,
  });
}

function targetDown(message: string, cause?: unknown): Refusal {
  return new Refusal("TARGET_DOWN", message, { retryAfterMs: 1_000, cause });
}

/** A read of a call: without an answer of the target the call cannot be answered either. */
export async function asking<T>(read: Promise<T>): Promise<T> {
  try {
    return await read;
  } catch (error) {
    const down = error instanceof SpdkUnknownOutcome || error instanceof SpdkNotSent;
    if (down || error instanceof SpdkError) throw targetDown(error.message, error);
    throw error;
  }
}
