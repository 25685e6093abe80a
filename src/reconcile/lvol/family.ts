// What the clone family of a volume or a snapshot has to do with it. SPDK must not run two changes of one
// family at a time: the lanes see to that for the changes of this agent, the pending ops of the rows for
// those of earlier ones.
import { pendingOpPhase, type PendingContext } from "../../model/pending-op.ts";
import { clonesOf, type Clones } from "../../model/snapshot.ts";
import type { Rows } from "../../store/rows.ts";
import type { Family } from "../../store/snapshot-index.ts";

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

export function familyView(rows: Rows, member: Member, pending: PendingContext): FamilyView {
  return rows.familySize(member.familyRoot) < 2 ? ALONE : new Relatives(rows, member, pending);
}

/** Read when it is asked for: most plans never do, and a family is as large as its history. */
class Relatives implements FamilyView {
  readonly #rows: Rows;
  readonly #member: Member;
  readonly #pending: PendingContext;
  #family: Family | undefined;

  constructor(rows: Rows, member: Member, pending: PendingContext) {
    this.#rows = rows;
    this.#member = member;
    this.#pending = pending;
  }

  get busy(): boolean {
    const { lvols, snapshots } = this.#read();
    return [...lvols, ...snapshots].some(
      ({ id, pendingOp }) =>
        id !== this.#member.id && pendingOpPhase(pendingOp, this.#pending) === "running",
    );
  }

  get snapshotDue(): boolean {
    return this.#read().snapshots.some(
      (row) =>
        row.sourceLvolId === this.#member.id &&
        row.lvolUuid === undefined &&
        row.deleteRequestedTime === undefined &&
        !row.failed,
    );
  }

  get clones(): Clones {
    return clonesOf(this.#member.id, this.#read());
  }

  #read(): Family {
    this.#family ??= this.#rows.family(this.#member.familyRoot);
    return this.#family;
  }
}
