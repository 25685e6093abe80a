// PurgeOrphan: removes an lvol or a subsystem that no row names, on request only. What it is to remove
// is read by name when the call begins and again once the lanes are held, and refused if it is in use.
//
// It never removes what a row names, what a host may be using, or an lvol in a store of another node.
import type { Logger } from "pino";
import type { DiskRow, DiskStatusPatch } from "../../model/disk.ts";
import { Refusal } from "../../model/errors.ts";
import type { Purge } from "../../model/orphan.ts";
import { pendingOp, pendingOpPhase, type PendingContext } from "../../model/pending-op.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { LvolBdev } from "../../spdk/replies-bdev.ts";
import type { Subsystem } from "../../spdk/replies-nvmf.ts";
import { attempt, type AfterLoss, type Attempt, type Change } from "../engine/attempt.ts";
import type { Lane, LaneKey, Lanes } from "../engine/lanes.ts";
import { asking, requireTarget } from "../target/asking.ts";
import { partsOf } from "../target/lvol-alias.ts";
import type { UnknownOutcomes } from "../target/unknown-outcomes.ts";
import {
  diskBusy,
  diskOf,
  foundOrAbsent,
  type OrphansOfVolumeContext,
} from "./orphans-of-volume.ts";

export type PurgeContext = OrphansOfVolumeContext & {
  readonly spdk: SpdkClient;
  readonly lanes: Lanes;
  readonly afterLoss: AfterLoss;
  readonly outcomes: Pick<UnknownOutcomes, "add">;
  readonly pending: (now: Date) => PendingContext;
  readonly slices: { readonly of: (diskId: string) => readonly unknown[] | undefined };
  readonly log: Logger;
  readonly writer: {
    readonly recordDisk: (
      row: Pick<DiskRow, "id" | "generation">,
      patch: DiskStatusPatch,
    ) => Promise<boolean>;
  };
};

type PurgeOf<Kind> = Extract<Purge, { kind: Kind }>;

/**
 * True once the orphan was read to be absent after every change was answered; false if that is not
 * known: the call is to be repeated. Once the signal aborts, nothing more is begun.
 */
export async function purgeOrphan(
  context: PurgeContext,
  purge: Purge,
  signal: AbortSignal,
): Promise<boolean> {
  requireTarget(context.observed);
  return purge.kind === "lvol"
    ? await purgeLvol(context, purge, signal)
    : await purgeSubsystem(context, purge, signal);
}

async function purgeLvol(
  context: PurgeContext,
  purge: PurgeOf<"lvol">,
  signal: AbortSignal,
): Promise<boolean> {
  const disk = diskOf(context, purge.name);
  const found = await purgeableLvol(context, purge);
  if (found === undefined) return true;
  await recordDoubt(context, disk);
  const done = await context.lanes.run(lanesOf(disk, found), async (lane) => {
    if (signal.aborted) return false;
    const now = await purgeableLvol(context, purge);
    if (now === undefined) return true;
    requireDoubt(context, disk.id);
    logPurge(context, purge);
    const target = { lvsUuid: now.lvol.storeUuid, name: now.uuid };
    const deleted = await attempt(context.spdk.bdevLvolDelete(target), {
      ...unaccounted(context, lane),
      lost: (method, ended) => context.outcomes.add(disk.id, "disk", method, ended),
    });
    if (deleted.kind === "ok") return (await asking(context.spdk.getBdev(now.uuid))) === undefined;
    logUnfinished(context, purge, deleted);
    return false;
  });
  await context.orphans.readLvols([purge.uuid]).catch(() => {});
  if (done) endDoubt(context, disk.id);
  return done;
}

/** The lvol if it may be purged, undefined if it is gone; throws a Refusal otherwise. */
async function purgeableLvol(
  context: PurgeContext,
  { name, uuid }: PurgeOf<"lvol">,
): Promise<LvolBdev | undefined> {
  const { spdk, orphans } = context;
  diskOf(context, name);
  const found = await foundOrAbsent(context, async () => {
    const both = await Promise.all([spdk.getBdev(uuid), spdk.getBdev(name)]);
    return both.some((bdev) => bdev !== undefined) ? both : undefined;
  });
  if (found === undefined) return undefined;
  const [byUuid, byName] = found;
  if (byUuid?.kind !== "lvol" || byUuid.uuid !== uuid || byName?.uuid !== uuid) {
    const message = `there is no lvol ${name} with the uuid ${uuid}, and one with either`;
    throw new Refusal("NOT_FOUND", message);
  }
  if (!orphans.isOrphanLvol(byUuid)) {
    throw new Refusal(
      "IN_USE",
      `lvol ${name} is no orphan: it belongs to a volume or a snapshot, which Delete removes, or to the zeroing of free space`,
    );
  }
  if (byUuid.claimed) {
    throw new Refusal("IN_USE", `lvol ${name} is exported or claimed on the target`);
  }
  if (byUuid.lvol.clones.length > 0) {
    const clones = byUuid.lvol.clones.join(", ");
    throw new Refusal("HAS_CLONES", `lvol ${name} is a snapshot with the clones ${clones}`, {
      metadata: { clones },
    });
  }
  return byUuid;
}

/** A snapshot or a clone changes others with it, whatever family they are of: nothing else on the disk. */
function lanesOf(disk: DiskRow, bdev: LvolBdev): LaneKey[] {
  if (bdev.lvol.snapshot || bdev.lvol.clone)
    return [{ kind: "disk", disk: disk.id, mode: "exclusive" }];
  return [{ kind: "family", disk: disk.id, root: partsOf(bdev).name }];
}

/**
 * SPDK does not show with which clear method an lvol was made, so its clusters may be freed with their
 * bytes. Recorded before the delete is sent: whatever dies then, the free space is UNKNOWN.
 */
async function recordDoubt(on: PurgeContext, disk: DiskRow): Promise<void> {
  const { rows, writer, pending, slices } = on;
  const context = pending(new Date());
  const phase = pendingOpPhase(disk.pendingOp, context);
  // While slices are left, nothing that is under way records the free space as zeroed: it begins anew.
  const zeroing = disk.pendingOp?.op === "zero-free-space" && (slices.of(disk.id) ?? []).length > 0;
  const mine = phase === "own" && (disk.pendingOp?.op === "purge-orphan" || zeroing);
  if (phase !== "none" && phase !== "over" && !mine) throw diskBusy(disk);
  const op = pendingOp("purge-orphan", context);
  const row = rows.disk(disk.id) ?? disk;
  const written =
    op !== undefined &&
    (await writer.recordDisk(row, { freeSpace: "UNKNOWN", pendingOp: op, zeroing: undefined }));
  if (!written) throw diskBusy(row);
}

/** Free space may have been zeroed while the lanes were waited for, and would count as clean again. */
function requireDoubt({ rows, pending }: PurgeContext, diskId: string): void {
  const row = rows.disk(diskId);
  const own = pendingOpPhase(row?.pendingOp, pending(new Date())) === "own";
  if (row?.freeSpace === "UNKNOWN" && own && row.pendingOp?.op === "purge-orphan") return;
  throw diskBusy({ id: diskId, pendingOp: row?.pendingOp });
}

/** Not awaited: whether the row is written is of no concern to the caller. */
function endDoubt({ rows, writer, log }: PurgeContext, diskId: string): void {
  const row = rows.disk(diskId);
  if (row?.pendingOp?.op !== "purge-orphan") return;
  writer.recordDisk(row, { pendingOp: undefined }).catch((error: unknown) => {
    log.debug({ err: error, disk: diskId }, "cannot record the end of a purge");
  });
}

async function purgeSubsystem(
  context: PurgeContext,
  purge: PurgeOf<"subsystem">,
  signal: AbortSignal,
): Promise<boolean> {
  const { name: nqn } = purge;
  const found = await purgeableSubsystem(context, nqn);
  if (found === undefined) return true;
  const done = await context.lanes.run(lanesOfSubsystem(context, found), async (lane) => {
    if (signal.aborted) return false;
    const now = await purgeableSubsystem(context, nqn);
    if (now === undefined) return true;
    logPurge(context, purge);
    if (!(await withdraw(context, lane, now))) return false;
    const deleted = await attempt(
      context.spdk.nvmfDeleteSubsystem(nqn),
      unaccounted(context, lane),
    );
    if (deleted.kind === "ok") return (await asking(context.spdk.getSubsystem(nqn))) === undefined;
    logUnfinished(context, purge, deleted);
    return false;
  });
  await context.orphans.readSubsystems([nqn]).catch(() => {});
  return done;
}

/** Its NQN, and the families of the lvols that it shows. */
function lanesOfSubsystem({ rows, orphans }: PurgeContext, { nqn, namespaces }: Subsystem) {
  const keys: LaneKey[] = [{ kind: "nqn", nqn }];
  const lvols = orphans.list();
  for (const { bdevName } of namespaces) {
    const row = rows.lvolByUuid(bdevName);
    if (row !== undefined) keys.push({ kind: "family", disk: row.diskId, root: row.id });
    const orphan = lvols.find(({ uuid }) => uuid === bdevName);
    if (orphan?.diskId === undefined) continue;
    const root = partsOf({ aliases: [orphan.name] }).name;
    keys.push({ kind: "family", disk: orphan.diskId, root });
  }
  return keys;
}

async function purgeableSubsystem(
  context: PurgeContext,
  nqn: string,
): Promise<Subsystem | undefined> {
  const { spdk, orphans, rows } = context;
  if (rows.lvolByNqn(nqn) !== undefined && !orphans.isOrphanNqn(nqn)) {
    throw new Refusal("IN_USE", `subsystem ${nqn} belongs to a volume`);
  }
  if (!orphans.isOrphanNqn(nqn)) {
    throw new Refusal("NOT_FOUND", `${nqn} is no NQN of a volume of this node`);
  }
  const found = await asking(spdk.getSubsystem(nqn));
  if (found !== undefined) await refuseConnected(context, nqn);
  return found;
}

async function refuseConnected({ spdk }: PurgeContext, nqn: string): Promise<void> {
  const controllers = await asking(spdk.nvmfSubsystemGetControllers(nqn));
  const hosts = [...new Set(controllers.map(({ hostNqn }) => hostNqn))];
  if (hosts.length === 0) return;
  throw new Refusal("IN_USE", `subsystem ${nqn} is in use by ${hosts.join(", ")}`, {
    metadata: { hosts: hosts.join(",") },
    preconditions: hosts.map((host) => ({ subject: host, description: `is connected to ${nqn}` })),
  });
}

/** Removes the listeners; puts them back and throws a Refusal if a host has connected in between. */
async function withdraw(
  context: PurgeContext,
  lane: Lane,
  { nqn, listenAddresses }: Subsystem,
): Promise<boolean> {
  const { spdk } = context;
  const change = unaccounted(context, lane);
  for (const address of listenAddresses) {
    const call = spdk.nvmfSubsystemRemoveListener({ nqn, address });
    if ((await attempt(call, change)).kind === "open") return false;
  }
  try {
    await refuseConnected(context, nqn);
  } catch (error) {
    for (const address of listenAddresses) {
      await attempt(spdk.nvmfSubsystemAddListener({ nqn, address }), change);
    }
    throw error;
  }
  return true;
}

/** A lost answer keeps the lane closed; no volume or disk is concerned that could show it. */
function unaccounted({ afterLoss }: PurgeContext, lane: Lane): Change {
  return { lane, afterLoss, lost: (_method, ended) => ended };
}

function logPurge({ log }: PurgeContext, purge: Purge): void {
  const { kind, name, reason, actor } = purge;
  const uuid = purge.kind === "lvol" ? purge.uuid : undefined;
  log.warn({ orphan: kind, name, uuid, actor, reason }, "removing an orphan, as PurgeOrphan asks");
}

function logUnfinished(
  { log }: PurgeContext,
  { kind, name }: Purge,
  answer: Exclude<Attempt<void>, { kind: "ok" }>,
): void {
  const why = answer.kind === "refused" ? answer.error.message : answer.message;
  log.warn({ orphan: kind, name, err: why }, "an orphan may not have been removed");
}
