// What is read again when the grace has ended: requests of earlier agents may have changed it until then.
import type { Rows } from "../../store/rows.ts";
import type { Observed } from "./observed.ts";

/** epoch: of the lease of this agent. */
export function forgetUnsettled(rows: Rows, observed: Observed, epoch: bigint | undefined): void {
  const { incarnation } = observed;
  for (const { id, pendingOp, lvolUuid, deleteRequestedTime, deleteTime } of rows.lvols()) {
    const mayHaveEnded =
      pendingOp !== undefined && (pendingOp.epoch !== epoch || pendingOp.run !== incarnation);
    const mayHaveBegun = lvolUuid === undefined && deleteRequestedTime !== undefined;
    if (mayHaveEnded || (mayHaveBegun && deleteTime === undefined)) {
      observed.setLvol(id, undefined);
    }
  }
  for (const { id, pendingOp, lvolUuid, deleteTime } of rows.snapshots.all()) {
    const mayHaveEnded =
      pendingOp !== undefined && (pendingOp.epoch !== epoch || pendingOp.run !== incarnation);
    if (mayHaveEnded || (lvolUuid === undefined && deleteTime === undefined)) {
      observed.setSnapshot(id, undefined);
    }
  }
}
