// The loop `snapshot-create`: takes the snapshot of a volume, exported or not, while its host goes on.
//
// It never takes a snapshot again that existed and is gone, nor one that an older database asks for: it would
// have the data of another moment.
import { pendingOp, pendingOpPhase } from "../../model/pending-op.ts";
import type { SnapshotLoop } from "../loop.ts";
import type { SnapshotStep } from "../steps.ts";
import type { SnapshotPlanView } from "./snapshot-view.ts";

export const snapshotCreate: SnapshotLoop = { name: "snapshot-create", over: "snapshot", plan };

function plan(view: SnapshotPlanView): SnapshotStep | undefined {
  const { row, observed, store, source, pending, wait } = view;
  if (store === undefined || row.deleteRequestedTime !== undefined) return undefined;
  if (observed === undefined) return observeSnapshot(view, store);
  if (observed.kind === "present" || row.lvolUuid !== undefined) return undefined;
  if (row.pendingOp?.op === "earlier-snapshot") return undefined;
  if (source?.lvol?.kind !== "present" || wait !== undefined) return undefined;
  switch (pendingOpPhase(row.pendingOp, pending)) {
    case "own":
      if (!view.copyingRecorded) return undefined;
      return {
        kind: "create-snapshot",
        lvsUuid: store.uuid,
        sourceId: source.row.id,
        sourceUuid: source.lvol.uuid,
        snapshotName: row.id,
      };
    case "running":
      return undefined;
    case "interrupted":
    case "none":
    case "over":
      break;
  }
  const op = pendingOp("snapshot", pending);
  return op && { kind: "record-snapshot", patch: { pendingOp: op } };
}

/** Reads the snapshot by uuid once the row has one, else by alias. */
export function observeSnapshot(
  { row }: Pick<SnapshotPlanView, "row">,
  store: { readonly name: string; readonly uuid: string },
): SnapshotStep {
  return {
    kind: "observe-snapshot",
    name: row.lvolUuid ?? `${store.name}/${row.id}`,
    lvsUuid: store.uuid,
  };
}
