// Performs the steps of the volume loops. A success is stored as an observation; after any other
// answer the object becomes unknown, and the next plan reads it. An "exists" or "absent" error is
// never believed by itself: only reading back decides (docs/architecture.md#r5-read-back).
import { trace } from "@opentelemetry/api";
import type { UnknownOutcome } from "../../model/unknown-outcome.ts";
import { alignUp } from "../../model/bytes.ts";
import { NO_LIMITS, type LvolStatusPatch, type PresentLvol } from "../../model/lvol.ts";
import { attempt, retryOf } from "../engine/attempt.ts";
import type { StepResult } from "../engine/kind.ts";
import type { LaneKey } from "../engine/lanes.ts";
import type { LvolBdev } from "../../spdk/replies-bdev.ts";
import { observedLvol, type Observed } from "../target/observed.ts";
import * as steps from "../steps.ts";
import * as changes from "./perform-change.ts";
import * as clones from "./perform-clone.ts";
import * as exports from "./perform-export.ts";
import { changing, type PerformedStep, type VolumeStepContext } from "./performed-step.ts";
import type { VolumePlanView } from "./view.ts";

export async function performVolumeStep(
  context: VolumeStepContext,
  view: VolumePlanView,
  step: steps.VolumeStep,
): Promise<StepResult> {
  if (step.kind === "record-lvol") return await recordLvol(context, view, step.patch);
  const { row } = view;
  if (step.kind === "deny-host") noLongerLetIn(context.observed, row.id, step.host);
  const keys = laneKeys(view, step);
  const unknown = context.outcomes.of(row.id, "subsystem");
  if (unknown !== undefined && keys.some(({ kind }) => kind === "nqn")) {
    return await unsettled(context, view, step, unknown);
  }
  const unknownLvol = context.outcomes.of(row.id, "lvol");
  if (unknownLvol !== undefined && keys.some(({ kind }) => kind === "family")) {
    return waitsFor(unknownLvol);
  }
  return await inLanes(context, view, { step, keys, settled: true });
}

/**
 * The lane of the subsystem is closed until the lost answer is accounted for. A read needs no lane, and
 * shows something that is not concluded from; of changes, only those that may be made twice are sent,
 * after a while. In place of any other, the subsystem is read.
 */
async function unsettled(
  context: VolumeStepContext,
  view: VolumePlanView,
  step: TargetStep,
  unknown: UnknownOutcome,
): Promise<StepResult> {
  const { id, nqn } = view.row;
  const aged = view.now.getTime() - unknown.since.getTime() >= context.repeatMs;
  const keys: LaneKey[] = [{ kind: "nqn", nqn: `${nqn} (repeats)` }];
  if (aged && steps.REPEATABLE.has(step.kind)) {
    return await inLanes(context, view, { step, keys, settled: false });
  }
  const read: steps.ObserveSubsystem = { kind: "observe-subsystem", nqn };
  const result = await inLanes(context, view, { step: read, keys, settled: false });
  if (step.kind === read.kind || context.outcomes.of(id, "subsystem") === undefined) return result;
  return waitsFor(unknown);
}

function waitsFor({ method, since }: UnknownOutcome): StepResult {
  return {
    kind: "retry",
    message: `waits for the outcome of ${method}, whose answer was lost at ${since.toISOString()}`,
    unanswered: "not-sent",
  };
}

/**
 * Before its removal is sent: a host whose access is being taken away is not ready to connect, and is
 * not gone before a read from now on shows it.
 */
function noLongerLetIn(observed: Observed, id: string, host: string): void {
  const { subsystem } = observed.volume(id);
  if (subsystem?.kind !== "present") return;
  const hosts = subsystem.hosts.filter((one) => one !== host);
  observed.expireSubsystem(id);
  observed.setSubsystem(id, { ...subsystem, hosts });
}

function inLanes(
  context: VolumeStepContext,
  view: VolumePlanView,
  {
    step,
    keys,
    settled,
  }: { readonly step: TargetStep; readonly keys: LaneKey[]; readonly settled: boolean },
): Promise<StepResult> {
  return context.lanes.run(keys, (lane) => {
    trace.getActiveSpan()?.addEvent("lanes held");
    return act({ context, view, lane, settled }, step);
  });
}

async function recordLvol(
  { writer }: VolumeStepContext,
  { row }: VolumePlanView,
  patch: LvolStatusPatch,
): Promise<StepResult> {
  const written = await writer.recordLvol(row, patch);
  return written
    ? { kind: "ok" }
    : { kind: "retry", message: "the intent changed before the status was committed" };
}

type TargetStep = Exclude<steps.VolumeStep, steps.RecordLvol>;

function laneKeys(view: VolumePlanView, step: TargetStep): LaneKey[] {
  const { row } = view;
  const family: LaneKey = { kind: "family", disk: row.diskId, root: row.familyRoot };
  const nqn: LaneKey = { kind: "nqn", nqn: row.nqn };
  switch (step.kind) {
    case "observe-lvol":
    case "create-lvol":
    case "set-parent":
    case "resize-lvol":
    case "inflate-lvol":
    case "delete-lvol":
    case "rename-lvol":
      return [family];
    case "add-namespace":
    case "set-qos":
      return [family, nqn];
    case "observe-subsystem":
    case "prepare-export":
    case "allow-host":
    case "deny-host":
    case "set-any-host":
    case "add-listener":
    case "remove-listener":
    case "end-export":
      return [nqn];
  }
}

function act(on: PerformedStep, step: TargetStep): Promise<StepResult> {
  switch (step.kind) {
    case "observe-lvol":
      return observeLvol(on, step);
    case "create-lvol":
      return createLvol(on, step);
    case "set-parent":
      return clones.setParent(on, step);
    case "resize-lvol":
      return changes.resizeLvol(on, step);
    case "set-qos":
      return changes.setQos(on, step);
    case "inflate-lvol":
      return clones.inflateLvol(on, step);
    case "delete-lvol":
      return deleteLvol(on, step);
    case "rename-lvol":
      return renameLvol(on, step);
    case "observe-subsystem":
      return exports.observeSubsystem(on, step);
    case "prepare-export":
      return exports.prepareExport(on, step);
    case "allow-host":
      return exports.allowHost(on, step);
    case "deny-host":
      return exports.denyHost(on, step);
    case "set-any-host":
      return exports.setAnyHost(on, step);
    case "add-namespace":
      return exports.addNamespace(on, step);
    case "add-listener":
      return exports.addListener(on, step);
    case "remove-listener":
      return exports.removeListener(on, step);
    case "end-export":
      return exports.endExport(on, step);
  }
}

async function observeLvol(on: PerformedStep, step: steps.ObserveLvol): Promise<StepResult> {
  const { spdk, observed, lostStore } = on.context;
  const { row } = on.view;
  const found = await attempt(spdk.getBdev(step.name));
  if (found.kind !== "ok") return retryOf([found]);
  if (found.value === undefined) {
    // The lvol is absent only if its lvstore is loaded; without the lvstore nothing is known of it.
    const store = await attempt(spdk.getLvstore({ uuid: step.lvsUuid }));
    if (store.kind !== "ok") return retryOf([store]);
    if (store.value === undefined) lostStore(row.diskId);
    else observed.setLvol(row.id, { kind: "absent" });
    return { kind: "ok" };
  }
  const bdev = found.value;
  if (bdev.kind !== "lvol" || bdev.lvol.storeUuid !== step.lvsUuid) {
    return {
      kind: "fatal",
      message: `bdev ${step.name} is not an lvol of lvstore ${step.lvsUuid}`,
    };
  }
  const lvol = observedLvol(bdev);
  const conflict = row.lvolUuid === undefined ? conflictOf(on, bdev, lvol) : undefined;
  if (conflict !== undefined) return await nameIsTaken(on, conflict);
  observed.setLvol(row.id, lvol);
  return { kind: "ok" };
}

/**
 * Why an lvol with the volume's name, found before the row has a uuid, cannot be the volume's.
 */
function conflictOf(
  { context, view: { row, store } }: PerformedStep,
  { lvol: shape }: LvolBdev,
  lvol: PresentLvol,
): string | undefined {
  if (row.nameTaken || context.newVolumes.has(row.id)) {
    return `lvol ${row.id} (uuid ${lvol.uuid}) was not made for this volume`;
  }
  if (shape.snapshot || shape.clone) return `lvol ${row.id} is a snapshot or a clone`;
  if (row.cloning) return undefined;
  if (lvol.thin !== row.thin) {
    return `lvol ${row.id} is ${lvol.thin ? "thin instead of thick" : "thick instead of thin"}`;
  }
  // It may have been created before the volume was asked to grow.
  const least = alignUp(row.request.sizeBytes, store?.clusterBytes ?? 1n);
  if (lvol.sizeBytes < least || lvol.sizeBytes > row.promisedBytes) {
    return `lvol ${row.id} has ${lvol.sizeBytes} bytes instead of ${row.promisedBytes} bytes`;
  }
  return undefined;
}

/**
 * The lvol that has the volume's name is somebody else's: it is an orphan, and left alone also when the
 * volume is deleted. Recorded first, as only this process may know it.
 */
async function nameIsTaken(
  { context, view: { row, store } }: PerformedStep,
  conflict: string,
): Promise<StepResult> {
  const { writer, observed, orphans } = context;
  const recorded = row.nameTaken || (await writer.recordLvol(row, { nameTaken: true }));
  if (!recorded) {
    return { kind: "retry", message: "the intent changed before the status was committed" };
  }
  observed.setLvol(row.id, { kind: "absent" });
  // Else it is listed by the next full scan.
  if (store !== undefined) await orphans.readLvols([`${store.name}/${row.id}`]).catch(() => {});
  if (row.deleteRequestedTime !== undefined) return { kind: "ok" };
  const message = `ORPHAN_EXISTS: ${conflict}; it is left alone, see ListOrphans and PurgeOrphan`;
  return { kind: "fatal", message };
}

async function createLvol(on: PerformedStep, step: steps.CreateLvol): Promise<StepResult> {
  const { spdk, observed, newVolumes, orphans } = on.context;
  const { row } = on.view;
  const elsewhere = orphans.onAnotherDisk(row);
  if (elsewhere !== undefined) return await nameIsTaken(on, elsewhere);
  const { lvsUuid, lvolName, sizeBytes, thin } = step;
  const create = { lvsUuid, lvolName, sizeBytes, thin, clearMethod: "write_zeroes" } as const;
  const made = await changing(on, "lvol", spdk.bdevLvolCreate(create));
  const exists = made.kind === "refused" && made.error.kind === "exists";
  const taken = exists && (row.nameTaken || newVolumes.has(row.id));
  // An lvol of that name may be of this creation from now on, also if its uuid is never recorded.
  if (!taken) newVolumes.delete(row.id);
  if (made.kind === "ok") {
    const uuid = made.value;
    const allocatedClusters = thin ? 0n : undefined;
    observed.setLvol(row.id, {
      kind: "present",
      uuid,
      lvsUuid,
      sizeBytes,
      thin,
      allocatedClusters,
      parent: undefined,
      limits: NO_LIMITS,
    });
    return { kind: "ok" };
  }
  if (taken) return await nameIsTaken(on, `an lvol ${row.id} was there before this volume`);
  observed.setLvol(row.id, undefined);
  // The name is taken, perhaps by an earlier create whose answer was lost: reading back decides.
  if (exists) return { kind: "ok" };
  return retryOf([made]);
}

/** Read back whatever the answer: SPDK changes the alias first, and may refuse the name then. */
async function renameLvol(on: PerformedStep, step: steps.RenameLvol): Promise<StepResult> {
  const { spdk, observed } = on.context;
  const { lvsUuid, lvolUuid: name, newName } = step;
  const renamed = await changing(on, "lvol", spdk.bdevLvolRename({ lvsUuid, name, newName }));
  observed.setLvol(on.view.row.id, undefined);
  return renamed.kind === "ok" ? { kind: "ok" } : retryOf([renamed]);
}

async function deleteLvol(on: PerformedStep, step: steps.DeleteLvol): Promise<StepResult> {
  const { spdk, observed, writer } = on.context;
  const { row, store } = on.view;
  if (store === undefined)
    return { kind: "retry", message: "the lvstore of the volume is not loaded" };
  const deleted = await changing(
    on,
    "lvol",
    spdk.bdevLvolDelete({ lvsUuid: store.uuid, name: step.lvolUuid }),
  );
  // Reading back decides whatever the answer is: a repeated delete fails, and a failed one may have
  // had an effect.
  observed.setLvol(row.id, undefined);
  if (deleted.kind === "refused" && deleted.error.kind === "absent") return { kind: "ok" };
  if (
    deleted.kind === "refused" &&
    deleted.error.kind !== "not_permitted" &&
    row.pendingOp !== undefined
  ) {
    // SPDK removes the bdev first: the lvol may be in no list and still hold its clusters on disk.
    await writer.recordLvol(row, { pendingOp: { ...row.pendingOp, failed: true } });
  }
  return retryOf([deleted]);
}
