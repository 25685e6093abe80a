// Performs the steps of the snapshot loops, each in the lane of its clone family. What a change has made
// of the family is read back before the lane opens: SPDK answers vaguely, and what became of the members is
// what the next change is planned from (docs/architecture.md#r5-read-back).
import { trace } from "@opentelemetry/api";
import type { ObservedLvol } from "../../model/lvol.ts";
import type { SnapshotRow, SnapshotStatusPatch } from "../../model/snapshot.ts";
import { attempt, retryOf } from "../engine/attempt.ts";
import type { StepResult } from "../engine/kind.ts";
import type { Lane } from "../engine/lanes.ts";
import { observedLvol } from "../target/observed.ts";
import { changing, type VolumeStepContext } from "./performed-step.ts";
import type * as steps from "../steps.ts";
import type { SnapshotPlanView } from "./snapshot-view.ts";

export type SnapshotStepContext = Pick<
  VolumeStepContext,
  "spdk" | "rows" | "observed" | "lanes" | "outcomes" | "orphans" | "afterLoss" | "lostStore"
> & {
  readonly writer: {
    readonly recordSnapshot: (
      row: Pick<SnapshotRow, "id" | "generation">,
      patch: SnapshotStatusPatch,
    ) => Promise<boolean>;
  };
};

type Performed = {
  readonly context: SnapshotStepContext;
  readonly view: SnapshotPlanView;
  readonly lane: Lane;
};

export async function performSnapshotStep(
  context: SnapshotStepContext,
  view: SnapshotPlanView,
  step: steps.SnapshotStep,
): Promise<StepResult> {
  const { row } = view;
  if (step.kind === "record-snapshot") {
    const written = await context.writer.recordSnapshot(row, step.patch);
    if (written) return { kind: "ok" };
    return { kind: "retry", message: "the intent changed before the status was committed" };
  }
  const key = { kind: "family", disk: row.diskId, root: row.familyRoot } as const;
  return await context.lanes.run([key], (lane) => {
    trace.getActiveSpan()?.addEvent("lanes held");
    const on = { context, view, lane };
    switch (step.kind) {
      case "observe-snapshot":
        return observeSnapshot(on, step);
      case "create-snapshot":
        return createSnapshot(on, step);
      case "delete-snapshot":
        return deleteSnapshot(on, step);
    }
  });
}

async function observeSnapshot(on: Performed, step: steps.ObserveSnapshot): Promise<StepResult> {
  const { spdk, observed, lostStore, orphans } = on.context;
  const { row, store } = on.view;
  const found = await attempt(spdk.getBdev(step.name));
  if (found.kind !== "ok") return retryOf([found]);
  const bdev = found.value;
  if (bdev === undefined) {
    const loaded = await attempt(spdk.getLvstore({ uuid: step.lvsUuid }));
    if (loaded.kind !== "ok") return retryOf([loaded]);
    if (loaded.value === undefined) lostStore(row.diskId);
    else observed.setSnapshot(row.id, { kind: "absent" });
    return { kind: "ok" };
  }
  if (bdev.kind !== "lvol" || bdev.lvol.storeUuid !== step.lvsUuid) {
    const message = `bdev ${step.name} is not an lvol of lvstore ${step.lvsUuid}`;
    return { kind: "fatal", message };
  }
  // Before the first request to take it was recorded, nothing of its name can be this snapshot.
  const taken = row.lvolUuid === undefined && (row.pendingOp === undefined || !bdev.lvol.snapshot);
  if (!taken) {
    observed.setSnapshot(row.id, observedLvol(bdev));
    return { kind: "ok" };
  }
  observed.setSnapshot(row.id, { kind: "absent" });
  if (store !== undefined) await orphans.readLvols([`${store.name}/${row.id}`]).catch(() => {});
  if (row.deleteRequestedTime !== undefined) return { kind: "ok" };
  return nameIsTaken(`lvol ${row.id} (uuid ${bdev.uuid}) was not made for this snapshot`);
}

function nameIsTaken(conflict: string): StepResult {
  const message = `ORPHAN_EXISTS: ${conflict}; it is left alone, see ListOrphans and PurgeOrphan`;
  return { kind: "fatal", message };
}

async function createSnapshot(on: Performed, step: steps.CreateSnapshot): Promise<StepResult> {
  const { spdk, observed, orphans } = on.context;
  const { row } = on.view;
  const { lvsUuid, sourceId, sourceUuid, snapshotName } = step;
  const elsewhere = orphans.onAnotherDisk(row);
  if (elsewhere !== undefined) return nameIsTaken(elsewhere);
  const made = await changing(
    on,
    "lvol",
    spdk.bdevLvolSnapshot({ lvsUuid, name: sourceUuid, snapshotName }),
  );
  if (made.kind === "open") {
    observed.setSnapshot(row.id, undefined);
    observed.setLvol(sourceId, undefined);
    return retryOf([made]);
  }
  if (made.kind === "ok") {
    await readBack(on, [
      { id: row.id, uuid: made.value },
      { id: sourceId, uuid: sourceUuid },
    ]);
    return { kind: "ok" };
  }
  observed.setSnapshot(row.id, undefined);
  // The name is taken, perhaps by an earlier request whose answer was lost: reading back decides.
  return made.error.kind === "exists" ? { kind: "ok" } : retryOf([made]);
}

async function deleteSnapshot(on: Performed, step: steps.DeleteSnapshot): Promise<StepResult> {
  const { spdk, rows, observed, writer } = on.context;
  const { row } = on.view;
  const { lvsUuid, lvolUuid: name, cloneIds } = step;
  const deleted = await changing(on, "lvol", spdk.bdevLvolDelete({ lvsUuid, name }));
  observed.setSnapshot(row.id, undefined);
  const clones = cloneIds.flatMap((id) => {
    const uuid = (rows.lvol(id) ?? rows.snapshots.get(id))?.lvolUuid;
    return uuid === undefined ? [] : [{ id, uuid }];
  });
  if (deleted.kind === "open") {
    for (const { id } of clones) unknown(on, id);
    return retryOf([deleted]);
  }
  await readBack(on, [{ id: row.id, uuid: name }, ...clones]);
  if (deleted.kind === "ok" || deleted.error.kind === "absent") return { kind: "ok" };
  if (deleted.error.kind !== "not_permitted" && row.pendingOp !== undefined) {
    // As of a volume: it may be in no list and still be on the disk.
    await writer.recordSnapshot(row, { pendingOp: { ...row.pendingOp, failed: true } });
  }
  return retryOf([deleted]);
}

/** Reads members of the family by uuid, in one write; what cannot be read is unknown. */
async function readBack(
  on: Performed,
  members: readonly { readonly id: string; readonly uuid: string }[],
): Promise<void> {
  const { spdk } = on.context;
  const found = await Promise.all(members.map(({ uuid }) => attempt(spdk.getBdev(uuid))));
  for (const [index, { id }] of members.entries()) {
    const answer = found[index];
    if (answer?.kind !== "ok") unknown(on, id);
    else if (answer.value?.kind === "lvol") setMember(on, id, observedLvol(answer.value));
    // Absent only while its store is loaded, which the loops see to.
    else unknown(on, id);
  }
}

function unknown(on: Performed, id: string): void {
  setMember(on, id, undefined);
}

function setMember({ context }: Performed, id: string, lvol: ObservedLvol | undefined): void {
  const { rows, observed } = context;
  if (rows.snapshots.get(id) === undefined) observed.setLvol(id, lvol);
  else observed.setSnapshot(id, lvol);
}
