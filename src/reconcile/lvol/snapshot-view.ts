// The view of one snapshot that its loops plan from: its row, what was observed of it and of the volume
// that it is taken of, and its disk.
import type { LvolRow, ObservedLvol } from "../../model/lvol.ts";
import { leavesDirt, type PendingContext } from "../../model/pending-op.ts";
import { diskFailure } from "../../model/seen-health.ts";
import type { SnapshotRow, SnapshotView } from "../../model/snapshot.ts";
import type { Moment } from "../engine/kind.ts";
import { familyView, type FamilyView } from "./family.ts";
import {
  diskReason,
  isReleased,
  storeView,
  type StoreView,
  type VolumeViewSource,
} from "./view.ts";
import { snapshotWait } from "./wait.ts";
import { TARGET_AWAY } from "../../model/target-process.ts";

export type SnapshotPlanView = SnapshotView & {
  readonly now: Date;
  /** A step on this snapshot was dispatched and is not answered: the observed state may change. */
  readonly inFlight: boolean;
  readonly pending: PendingContext;
  readonly family: FamilyView;
  /** Undefined: its row is gone, or it is not known which one it is. */
  readonly source: { readonly row: LvolRow; readonly lvol: ObservedLvol | undefined } | undefined;
  /**
   * A delete may have left old bytes in free clusters, and the disk's row does not record it yet.
   */
  readonly diskDoubtful: boolean;
  /** That clusters of the disk may be copied on write from now on is in its row. */
  readonly copyingRecorded: boolean;
  /** Its disk was released, and has left the target with what is on it. */
  readonly diskReleased: boolean;
  /** The lvstore of the snapshot; undefined while it is not observed loaded in this incarnation. */
  readonly store: StoreView | undefined;
};

export function snapshotView(
  { rows, observed, outcomes, pending: pendingAt }: VolumeViewSource,
  row: SnapshotRow,
  moment: Moment,
): SnapshotPlanView {
  const disk = rows.disk(row.diskId);
  const connected = observed.targetAnswers;
  const store = storeView({ rows, observed }, row.diskId);
  const pending = pendingAt(moment.now);
  const family = familyView(rows, row, pending);
  const source = row.sourceLvolId === undefined ? undefined : rows.lvol(row.sourceLvolId);
  const view: SnapshotPlanView = {
    row,
    observed: observed.snapshot(row.id),
    outcomeUnknown: outcomes.of(row.id),
    targetConnected: connected,
    diskReady: store !== undefined && disk?.wanted !== "release",
    diskReleased: isReleased(disk),
    diskReason: connected ? diskReason(row, disk) : TARGET_AWAY,
    diskFailure: diskFailure(disk),
    get clones() {
      return family.clones;
    },
    ...moment,
    pending,
    family,
    source: source && { row: source, lvol: observed.volume(source.id).lvol },
    diskDoubtful: disk?.freeSpace === "ZEROED" && leavesDirt(row, observed.incarnation),
    copyingRecorded: disk?.copyingRun !== undefined,
    store,
    get wait() {
      return snapshotWait(view);
    },
  };
  return view;
}
