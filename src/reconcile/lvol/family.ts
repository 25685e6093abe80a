// What the clone family of a volume or a snapshot has to do with it. SPDK must not run two changes of one
// family at a time: the lanes see to that for the changes of this agent, the pending ops of the rows for
// those of earlier ones.
import { pendingOpPhase, type PendingContext } from "../../model/pending-op.ts";
import { clonesOf, type Clones } from "../../model/snapshot.ts";
import type { Rows } from "../../store/rows.ts";

export type FamilyView = {
  /** A change of another member, sent by an earlier agent, may still be running. */
  readonly busy: boolean;
  /** A snapshot of this volume was asked for and is not taken yet. */
  readonly snapshotDue: boolean;
  /** What stands on this snapshot. */
  readonly clones: Clones;
};

const ALONE: FamilyView = { busy: false, snapshotDue: false, clones: { made: [], pending: [] } };

type Member = { readonly id: string; readonly familyRoot: string };

export function familyView(rows: Rows, { id, familyRoot }: Member, pending: PendingContext) {
  if (rows.familySize(familyRoot) < 2) return ALONE;
  const family = rows.family(familyRoot);
  const others = [...family.lvols, ...family.snapshots].filter((row) => row.id !== id);
  return {
    busy: others.some(({ pendingOp }) => pendingOpPhase(pendingOp, pending) === "running"),
    snapshotDue: family.snapshots.some(
      (row) =>
        row.sourceLvolId === id &&
        row.lvolUuid === undefined &&
        row.deleteRequestedTime === undefined &&
        !row.failed,
    ),
    clones: clonesOf(id, family),
  };
}
