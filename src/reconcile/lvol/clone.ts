// What makes a new lvol the clone of its snapshot, step by step, before any host sees it. Part of provision.
//
// SPDK's own bdev_lvol_clone makes lvols whose deletion clears nothing. So the lvol of a clone is created as
// that of any volume, of exactly the snapshot's size, and then given the snapshot as its parent
// (docs/architecture.md#r7-tenants-and-free-space); after that it grows to its own size, and a thick one is
// inflated. Pure.
import {
  pendingOp,
  pendingOpPhase,
  type PendingOp,
  type PendingOpKind,
} from "../../model/pending-op.ts";
import type { ObservedLvol } from "../../model/lvol.ts";
import { isOfDisk } from "../../model/wait.ts";
import type { VolumeStep } from "../steps.ts";
import type { VolumePlanView } from "./view.ts";

type Present = Extract<ObservedLvol, { kind: "present" }>;

/** The next step of a clone whose lvol exists; undefined: it waits, or it has the data of its snapshot. */
export function cloneStep(view: VolumePlanView, lvol: Present): VolumeStep | undefined {
  const { row, cloneOf, store } = view;
  if (store === undefined || row.lvolUuid === undefined) return undefined;
  const { wait } = view;
  if (wait !== undefined && !isOfDisk(wait)) return undefined;
  const { uuid: lvolUuid } = lvol;
  if (lvol.thin && lvol.parent === undefined) {
    if (cloneOf?.lvolUuid === undefined) return undefined;
    const parentUuid = cloneOf.lvolUuid;
    return announced(view, "clone", { kind: "set-parent", lvolUuid, parentUuid });
  }
  if (lvol.sizeBytes < row.promisedBytes) {
    return announced(view, "clone", {
      kind: "resize-lvol",
      lvolUuid,
      sizeBytes: row.promisedBytes,
    });
  }
  if (row.thin || !lvol.thin) return undefined;
  const step = announced(view, "inflate", { kind: "inflate-lvol", lvolUuid });
  // What it allocates it copies from the snapshot, and leaves as it is where that has nothing. An
  // interrupted attempt counts as dirt until it is announced anew, whatever the free space is.
  return step?.kind === "inflate-lvol" && wait !== undefined ? undefined : step;
}

/** What is announced in the commit that records the lvol of a clone: what it needs next; undefined: nothing. */
export function firstOfClone(
  { row, pending }: VolumePlanView,
  lvol: Present,
): PendingOp | undefined {
  const isNew = row.cloning && row.pendingOp === undefined && row.deleteRequestedTime === undefined;
  return isNew && lvol.thin && lvol.parent === undefined ? pendingOp("clone", pending) : undefined;
}

/** Whether the lvol has the data of the snapshot, its own size and its own kind. */
export function isCloned({ row, observed, inFlight }: VolumePlanView): boolean {
  const { lvol } = observed;
  if (inFlight || lvol?.kind !== "present" || lvol.sizeBytes < row.promisedBytes) return false;
  return row.thin ? lvol.parent === row.request.sourceSnapshotId : !lvol.thin;
}

/** The pending op first, then the step. */
function announced(
  view: VolumePlanView,
  kind: PendingOpKind,
  step: VolumeStep,
): VolumeStep | undefined {
  const { row, pending } = view;
  const phase = pendingOpPhase(row.pendingOp, pending);
  if (phase === "own" && row.pendingOp?.op === kind) return step;
  if (phase === "interrupted" && view.diskDoubtful) return undefined;
  const op = pendingOp(kind, pending);
  return op && { kind: "record-lvol", patch: { pendingOp: op } };
}
