// What a volume or a snapshot waits for (model/wait.ts): the loops plan no step while it holds. Pure.
import { diskName, freeSpaceDirt } from "../../model/free-space.ts";
import type { LvolRow } from "../../model/lvol.ts";
import { pendingOpPhase } from "../../model/pending-op.ts";
import { earlierChange, type Wait } from "../../model/wait.ts";
import { isTooSmall } from "./size.ts";
import type { SnapshotPlanView } from "./snapshot-view.ts";
import type { VolumePlanView } from "./view.ts";

type Volume = Omit<VolumePlanView, "wait">;

/** Undefined: nothing keeps its loops from the next step, or conditions and failures say what does. */
export function volumeWait(view: Volume): Wait | undefined {
  const { row, observed, store } = view;
  const { lvol } = observed;
  if (store === undefined) return undefined;
  if (row.deleteRequestedTime !== undefined) return deleteWait(view);
  if (lvol === undefined || row.failed) return undefined;
  if (lvol.kind === "absent") return createWait(view);
  if (row.lvolUuid === undefined) return undefined;
  if (row.cloning) return cloneWait(view, lvol.thin && lvol.parent === undefined);
  const wait = isTooSmall(row, observed) ? growWait(view) : undefined;
  return wait ?? heldWait(view);
}

function createWait(view: Volume): Wait | undefined {
  const { row, clean, discardsNotZeroing, cloneOf } = view;
  if (row.lvolUuid !== undefined || row.maybeMade) return undefined;
  if (!clean) return notZeroed(view, "provision", ["no new lvol is created there", "created"]);
  if (discardsNotZeroing) return discards(view);
  if (row.cloning && cloneOf?.observedSizeBytes === undefined) return notTaken(view);
  return undefined;
}

function cloneWait(view: Volume, isParentless: boolean): Wait | undefined {
  const { row, observed, cloneOf, clean } = view;
  const wait = earlierWait(view, "provision");
  if (wait !== undefined) return wait;
  if (isParentless) return cloneOf?.lvolUuid === undefined ? notTaken(view) : undefined;
  const filled = row.thin || observed.lvol?.kind !== "present" || !observed.lvol.thin;
  if (filled || isTooSmall(row, observed) || clean) return undefined;
  return notZeroed(view, "provision", ["no thick clone is filled there", "created"]);
}

function growWait(view: Volume): Wait | undefined {
  const wait = earlierWait(view, "resize");
  if (wait !== undefined || view.clean) return wait;
  return notZeroed(view, "resize", ["it is not grown", "grown"]);
}

function deleteWait(view: Volume): Wait | undefined {
  const { observed, family, row, pending } = view;
  const loop = "lvol-delete";
  const isTombstone = row.deleteTime !== undefined;
  if (!isTombstone && view.restoreUntilUnexported) return hostsMayReturn(view);
  if (observed.lvol === undefined || observed.subsystem?.kind !== "absent") return undefined;
  const isThere = observed.lvol.kind === "present";
  if (isTombstone && !isThere) return undefined;
  const wait = earlierWait(view, loop);
  if (wait !== undefined) return wait;
  if (!isThere) return maybeBeingMade(view) ? earlierChange(loop, pending.graceUntil) : undefined;
  if (!family.snapshotDue) return undefined;
  return {
    reason: "SNAPSHOT_DUE",
    loop,
    cause: `a snapshot of volume ${row.id} was asked for before its deletion, and is not taken yet`,
    cure: "wait for it, or call Delete for the snapshot",
    waits: "waits for the snapshot to be taken",
  };
}

function earlierWait(
  {
    row,
    family,
    pending,
  }: Pick<Volume, "family" | "pending"> & {
    readonly row: Pick<LvolRow, "pendingOp">;
  },
  loop: string,
): Wait | undefined {
  const isRunning = pendingOpPhase(row.pendingOp, pending) === "running";
  if (!isRunning && !family.busy) return undefined;
  return earlierChange(loop, pending.graceUntil, { ofFamily: !isRunning });
}

/** The create of an lvol that was never observed, sent by an earlier agent, may still be running. */
export function maybeBeingMade({ row, pending }: Pick<Volume, "row" | "pending">): boolean {
  return row.lvolUuid === undefined && pending.now < pending.graceUntil;
}

function notZeroed(
  { row, disk, hostsMayFree, zeroesByItself }: Volume,
  loop: string,
  [not, then]: readonly [string, string],
): Wait {
  const { cure, waits, found } = freeSpaceDirt(
    disk ?? { id: row.diskId, serial: "?", zeroRequestedTime: undefined, zeroing: undefined },
    { hostsMayFree, zeroesByItself },
  );
  const name = disk === undefined ? `disk ${row.diskId}` : diskName(disk);
  return {
    reason: "FREE_SPACE_NOT_ZEROED",
    loop,
    cause: `free clusters of its ${name} ${found}, so ${not}`,
    cure: `${cure}: the volume is then ${then} by itself`,
    waits,
  };
}

function discards({ row, disk }: Volume): Wait {
  const name = disk === undefined ? `disk ${row.diskId}` : diskName(disk);
  return {
    reason: "DISCARD_NOT_ZEROING",
    loop: "provision",
    cause:
      `it is thin, this SPDK release lets hosts free clusters by discards, and nobody has asserted ` +
      `that its ${name} zeroes these, so no lvol is created`,
    cure:
      `delete it and provision it as THICK; or call AdmitDisk with discard_zeroes if the drive does; ` +
      `or run SPDK 26.01 or later`,
    waits: "waits for another SPDK release, or for discard_zeroes",
  };
}

function notTaken({ row }: Volume): Wait {
  const snapshot = `snapshot ${row.request.sourceSnapshotId}`;
  return {
    reason: "SNAPSHOT_NOT_TAKEN",
    loop: "provision",
    cause: `${snapshot}, which it is to be a clone of, is not taken yet, or lost`,
    cure:
      `wait for it; "storage-node explain snapshot ${row.request.sourceSnapshotId}" says more; if ` +
      `it cannot be taken any more, call Delete {"lvolId": "${row.id}"}`,
    waits: `waits for ${snapshot}`,
  };
}

function heldWait({ row, disk, held }: Volume): Wait | undefined {
  if (held === undefined) return undefined;
  const name = disk === undefined ? `disk ${row.diskId}` : diskName(disk);
  const until = held.until === undefined ? "" : `, until ${held.until.toISOString()} at the latest`;
  return {
    reason: "EXPORT_HELD",
    loop: "export",
    cause:
      `no host may connect before the free clusters of its ${name} are zeroed${until}: a write that ` +
      `takes one would show bytes of deleted volumes around it`,
    cure: "wait for it; STORAGE_NODE_ZEROING_HOLD=never does without",
    waits: "waits for the free space to be zeroed",
  };
}

function hostsMayReturn({ row, unexportDue }: Volume): Wait {
  const until = unexportDue === undefined ? "" : `, until ${unexportDue.toISOString()}`;
  return {
    reason: "HOSTS_MAY_RETURN",
    loop: "export",
    cause: `hosts may be connected to it, or about to connect again${until}`,
    cure: `wait for it; or disconnect them, or call Delete {"lvolId": "${row.id}", "force": true}`,
    waits: "waits until no host is connected or about to connect again",
  };
}

/** As volumeWait. */
export function snapshotWait(view: Omit<SnapshotPlanView, "wait">): Wait | undefined {
  const { row, observed, store, source } = view;
  if (store === undefined || observed === undefined) return undefined;
  if (row.deleteRequestedTime !== undefined) {
    const isDone = row.deleteTime !== undefined && observed.kind === "absent";
    return isDone ? undefined : earlierWait(view, "snapshot-delete");
  }
  if (row.failed) return undefined;
  if (observed.kind === "present" || row.lvolUuid !== undefined) return undefined;
  const loop = "snapshot-create";
  if (source?.lvol?.kind === "present") return earlierWait(view, loop);
  // One whose volume is gone for good is FAILED.
  if (source?.lvol === undefined || source.row.lvolUuid !== undefined) return undefined;
  const volume = `volume ${source.row.id}`;
  return {
    reason: "SOURCE_NOT_MADE",
    loop,
    cause: `${volume}, which it is taken of, has no lvol yet`,
    cure: `see its conditions, or "storage-node explain volume ${source.row.id}"`,
    waits: `waits for ${volume}`,
  };
}
