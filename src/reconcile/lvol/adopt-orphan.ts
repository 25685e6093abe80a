// AdoptOrphan: makes a volume of an lvol that no row names. What it is to adopt is read by uuid, and the
// row is committed, with the lane of the lvol held: no purge of it is under way, and none begins before
// the row is known. Nothing is changed on the target here; the loops do the rest.
//
// It never adopts a snapshot or a clone, an lvol that is exported, or what is left of a deleted volume.
import type { Decision, Mutation } from "../../model/admission.ts";
import { sameOrRefuse } from "../../model/adopt-admission.ts";
import type { DiskRow } from "../../model/disk.ts";
import { Refusal } from "../../model/errors.ts";
import type { LvolRow } from "../../model/lvol.ts";
import { orphanBytes, refuseOrphans, type Adoption } from "../../model/orphan.ts";
import { pendingOpPhase, type PendingContext } from "../../model/pending-op.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { LvolBdev } from "../../spdk/replies-bdev.ts";
import type { Lanes } from "../engine/lanes.ts";
import { partsOf } from "../target/lvol-alias.ts";
import type { NamedLvol, ReturnedLvols } from "../target/returned-lvols.ts";
import {
  diskBusy,
  diskOf,
  foundOrAbsent,
  orphansOfVolume,
  type OrphansOfVolumeContext,
} from "./orphans-of-volume.ts";

export type AdoptContext = OrphansOfVolumeContext & {
  readonly spdk: Pick<SpdkClient, "getBdev">;
  readonly lanes: Pick<Lanes, "run">;
  readonly nodeId: string;
  readonly pending: (now: Date) => PendingContext;
  readonly returned: Pick<ReturnedLvols, "isOfDeleted">;
  readonly writer: { readonly mutate: (mutation: Mutation) => Promise<Decision> };
};

/** The row of the volume, new or from an earlier call. Throws a Refusal. */
export async function adoptOrphan(context: AdoptContext, asked: Adoption): Promise<LvolRow> {
  const { rows, nodeId, lanes } = context;
  // Asked again: the first call may be committed at any moment.
  const adopted = () => {
    const row = rows.lvol(asked.id);
    return row && sameOrRefuse(nodeId, row, asked.uuid);
  };
  const before = adopted();
  if (before !== undefined) return before;
  const found = await adoptableLvol(context, asked);
  if (found === undefined) return adopted() ?? refuseAbsent(asked.uuid);
  const disk = diskOf(context, aliasOf(found));
  const root = partsOf(found).name;
  return await lanes.run([{ kind: "family", disk: disk.id, root }], async () => {
    const now = await adoptableLvol(context, asked);
    if (now === undefined) return adopted() ?? refuseAbsent(asked.uuid);
    const { name } = partsOf(now);
    if (name !== root) refuseAbsent(asked.uuid);
    await refuseOthers(context, asked);
    return await commit(context, asked, { bdev: now, name, diskId: disk.id });
  });
}

function aliasOf({ aliases: [alias = ""] }: LvolBdev): string {
  return alias;
}

async function commit(
  { orphans, writer }: AdoptContext,
  { uuid, ...intent }: Adoption,
  found: { readonly bdev: LvolBdev; readonly name: string; readonly diskId: string },
): Promise<LvolRow> {
  const { bdev, name, diskId } = found;
  const others = orphans.list().filter((orphan) => orphan.uuid !== uuid);
  const decision = await writer.mutate({
    kind: "adoptOrphan",
    ...intent,
    lvol: {
      uuid,
      name,
      diskId,
      lvsUuid: bdev.lvol.storeUuid,
      sizeBytes: bdev.sizeBytes,
      thin: bdev.lvol.thin,
    },
    otherOrphanBytes: orphanBytes(others).get(diskId) ?? 0n,
  });
  if (decision.kind === "lvol" && decision.row !== undefined) return decision.row;
  throw new Error("the intent of an adoption did not lead to a volume");
}

/**
 * The orphan lvol with that uuid; undefined: it is the volume's by now. Throws a Refusal if there is none,
 * or none that may be adopted.
 */
async function adoptableLvol(
  context: AdoptContext,
  { uuid, id }: Adoption,
): Promise<LvolBdev | undefined> {
  const { spdk, orphans, rows, returned } = context;
  const bdev = await foundOrAbsent(context, () => spdk.getBdev(uuid));
  if (bdev?.kind !== "lvol" || bdev.uuid !== uuid) return refuseAbsent(uuid);
  const { store, name } = partsOf(bdev);
  if (!orphans.isOrphanLvol(bdev)) {
    const owner = rows.lvolByUuid(uuid)?.id ?? rows.lvol(name)?.id;
    if (owner === undefined) refuseAbsent(uuid);
    if (owner === id) return undefined;
    throw new Refusal("IN_USE", `lvol ${uuid} belongs to volume ${owner}`);
  }
  refusePurging(context, diskOf(context, aliasOf(bdev)));
  if (await isOfDeleted(returned, { uuid, store, name, relatives: [] })) {
    const message = `lvol ${uuid} is what is left of a deleted volume, and is deleted again`;
    throw new Refusal("ID_RETIRED", message);
  }
  const { snapshot, clone } = bdev.lvol;
  if (snapshot || clone) {
    const kind = snapshot ? "a snapshot, or read-only" : "a clone of a snapshot";
    throw new Refusal("NOT_ADOPTABLE", `lvol ${uuid} is ${kind}: it cannot become a volume`);
  }
  if (bdev.claimed) {
    throw new Refusal("IN_USE", `lvol ${uuid} is exported or claimed on the target`);
  }
  return bdev;
}

/** The lane does not tell of a purge that an earlier agent has sent: it may be of this lvol, and still run. */
function refusePurging({ pending }: AdoptContext, disk: DiskRow): void {
  const isRunning = pendingOpPhase(disk.pendingOp, pending(new Date())) === "running";
  if (isRunning && disk.pendingOp?.op === "purge-orphan") throw diskBusy(disk);
}

async function isOfDeleted(returned: AdoptContext["returned"], lvol: NamedLvol): Promise<boolean> {
  try {
    return await returned.isOfDeleted(lvol);
  } catch (cause) {
    const message = "the database cannot be asked whether the lvol is of a deleted volume";
    throw new Refusal("DATABASE_DOWN", message, { retryAfterMs: 1_000, cause });
  }
}

function refuseAbsent(uuid: string): never {
  throw new Refusal("NOT_FOUND", `no lvstore of this node has an orphan lvol ${uuid}`);
}

/** Nothing else may have the volume's id as its name: hosts might reach it, or be shown it. */
async function refuseOthers(context: AdoptContext, { id, uuid }: Adoption): Promise<void> {
  const named = await orphansOfVolume(context, id);
  refuseOrphans(
    id,
    named.filter((orphan) => orphan.uuid !== uuid),
  );
}
