// A snapshot: its row, what was observed of it, and its state, which is derived and never stored.
import type { ColumnOwner, OwnedBy } from "./column-owner.ts";
import type { Condition } from "./condition.ts";
import type { StepFailures } from "./failure.ts";
import { diskFailing } from "./lvol-state.ts";
import type { LvolRow, ObservedLvol } from "./lvol.ts";
import type { PendingOp } from "./pending-op.ts";
import { waitConditions, waitText, type Wait } from "./wait.ts";
import { outcomeConditions, type UnknownOutcome } from "./unknown-outcome.ts";
import { TARGET_AWAY } from "./target-process.ts";

export type SnapshotRow = {
  readonly id: string;
  readonly nodeId: string;
  readonly diskId: string;
  /** Of the volume that it was taken of; names the clone family. */
  readonly familyRoot: string;
  /** Undefined: rebuilt from an lvol on the disk, which does not say it. */
  readonly sourceLvolId: string | undefined;
  /** Of a volume whose lvol was an orphan: the delete of it may leave bytes in free clusters, too. */
  readonly adopted: boolean;
  // desired state
  /** Bytes promised on its disk: the volume may write its whole size again. */
  readonly promisedBytes: bigint;
  readonly labels: Readonly<Record<string, string>>;
  readonly generation: bigint;
  readonly deleteRequestedTime: Date | undefined;
  /** The deletion waits until at most one clone is left. */
  readonly deleteDeferred: boolean;
  /** Who asked for the present intent. */
  readonly actor: string | undefined;
  readonly traceparent: string | undefined;
  // recorded status
  readonly observedGeneration: bigint;
  /** Never cleared once it is set: a snapshot that existed and is lost is never taken again. */
  readonly lvolUuid: string | undefined;
  readonly lvsUuid: string | undefined;
  readonly observedSizeBytes: bigint | undefined;
  /** The snapshot that it was last observed to be a clone of. */
  readonly parentId: string | undefined;
  readonly pendingOp: PendingOp | undefined;
  readonly failures: StepFailures;
  readonly lastError: string | undefined;
  /** The last error is permanent: only a new intent can help. */
  readonly failed: boolean;
  readonly attempt: number;
  readonly nextTryTime: Date | undefined;
  readonly revision: bigint;
  readonly createTime: Date;
  readonly updateTime: Date;
  /** Set on a tombstone: the snapshot was observed to be gone from the node. */
  readonly deleteTime: Date | undefined;
};

/** Which part of the agent writes each column. */
export const SNAPSHOT_COLUMNS = {
  id: "fixed",
  nodeId: "fixed",
  diskId: "fixed",
  familyRoot: "fixed",
  sourceLvolId: "fixed",
  adopted: "fixed",
  promisedBytes: "intent",
  labels: "intent",
  generation: "intent",
  deleteRequestedTime: "intent",
  deleteDeferred: "intent",
  actor: "intent",
  traceparent: "intent",
  observedGeneration: "status",
  lvolUuid: "status",
  lvsUuid: "status",
  observedSizeBytes: "status",
  parentId: "status",
  pendingOp: "status",
  failures: "both",
  lastError: "status",
  failed: "both",
  attempt: "both",
  nextTryTime: "both",
  revision: "writer",
  createTime: "fixed",
  updateTime: "writer",
  deleteTime: "status",
} as const satisfies Readonly<Record<keyof SnapshotRow, ColumnOwner>>;

/** Status of a snapshot that a loop records; absent fields stay unchanged. */
export type SnapshotStatusPatch = Partial<
  Pick<SnapshotRow, OwnedBy<typeof SNAPSHOT_COLUMNS, "status" | "both">>
>;

/** What differs between new rows; the other fields have the same value in all of them. */
export type NewSnapshot = Pick<
  SnapshotRow,
  | "id"
  | "nodeId"
  | "diskId"
  | "familyRoot"
  | "sourceLvolId"
  | "adopted"
  | "promisedBytes"
  | "labels"
  | "actor"
  | "traceparent"
  | "revision"
> & { readonly now: Date };

/** The row of a snapshot that was just admitted: it was not taken yet. */
export function newSnapshotRow({ now, ...given }: NewSnapshot): SnapshotRow {
  return {
    ...given,
    generation: 1n,
    deleteRequestedTime: undefined,
    deleteDeferred: false,
    observedGeneration: 0n,
    lvolUuid: undefined,
    lvsUuid: undefined,
    observedSizeBytes: undefined,
    parentId: undefined,
    pendingOp: undefined,
    failures: {},
    lastError: undefined,
    failed: false,
    attempt: 0,
    nextTryTime: undefined,
    createTime: now,
    updateTime: now,
    deleteTime: undefined,
  };
}

export const SNAPSHOT_STATES = [
  "CREATING",
  "UP",
  "DEGRADED",
  "DATA_MISSING",
  "DELETING",
  "DELETED",
  "FAILED",
] as const;

export type SnapshotState = (typeof SNAPSHOT_STATES)[number];

/** Everything that a snapshot's state is derived from. */
export type SnapshotView = {
  readonly row: SnapshotRow;
  /** Undefined: not observed yet in this incarnation of the target. */
  readonly observed: ObservedLvol | undefined;
  readonly failures: StepFailures;
  readonly outcomeUnknown: UnknownOutcome | undefined;
  readonly targetConnected: boolean;
  readonly diskReady: boolean;
  readonly diskReason: string;
  /** Why its disk is about to fail; undefined: it is not. */
  readonly diskFailure?: string | undefined;
  /** As of a volume. */
  readonly wait: Wait | undefined;
  /** What SPDK must not lose it for: clones of it, and volumes that are about to be. */
  readonly clones: Clones;
};

export type SnapshotConditionType =
  | "SnapshotCreated"
  | "TargetConnected"
  | "DiskReady"
  | "HasClones"
  | "DiskFailing"
  | "Waiting"
  | "OutcomeUnknown";

export type SnapshotCondition = Condition<SnapshotConditionType>;

/** Whether the snapshot was recorded before and is now observed to be absent. */
export function snapshotMissing({
  row,
  observed,
}: Pick<SnapshotView, "row" | "observed">): boolean {
  return row.lvolUuid !== undefined && observed?.kind === "absent";
}

export function snapshotState(view: SnapshotView): SnapshotState {
  const { row, observed } = view;
  if (row.deleteTime !== undefined) return "DELETED";
  if (row.deleteRequestedTime !== undefined) return "DELETING";
  if (snapshotMissing(view)) return "DATA_MISSING";
  if (row.failed) return "FAILED";
  if (row.lvolUuid === undefined) return "CREATING";
  const works = view.targetConnected && view.diskReady && observed?.kind === "present";
  return works ? "UP" : "DEGRADED";
}

export function snapshotConditions(view: SnapshotView): readonly SnapshotCondition[] {
  const { row, targetConnected, diskReady, diskReason, clones } = view;
  const blockers = row.deleteRequestedTime === undefined ? [] : deleteBlockers(clones);
  return [
    {
      type: "TargetConnected",
      status: targetConnected ? "TRUE" : "FALSE",
      reason: targetConnected ? "Connected" : "TargetDown",
      message: targetConnected ? "" : TARGET_AWAY,
    },
    {
      type: "DiskReady",
      status: diskReady ? "TRUE" : "FALSE",
      reason: diskReady ? "Up" : "DiskNotUp",
      message: diskReady ? "" : diskReason,
    },
    snapshotCreated(view),
    ...(blockers.length === 0
      ? []
      : [
          {
            type: "HasClones",
            status: "TRUE",
            reason: "HAS_CLONES",
            message: `it is deleted once at most one of these is left: ${blockers.join(", ")}`,
          } as const,
        ]),
    ...diskFailing(view),
    ...waitConditions(view.wait),
    ...outcomeConditions(view.outcomeUnknown),
  ];
}

function snapshotCreated(view: SnapshotView): SnapshotCondition {
  const type = "SnapshotCreated";
  const { row, observed } = view;
  if (snapshotMissing(view) && row.deleteRequestedTime !== undefined) {
    const message = `lvol ${row.lvolUuid} is gone: the snapshot was deleted`;
    return { type, status: "FALSE", reason: "Deleted", message };
  }
  if (snapshotMissing(view)) {
    const message = `snapshot ${row.lvolUuid} is lost; it is not taken again`;
    return { type, status: "FALSE", reason: "DataMissing", message };
  }
  if (row.lvolUuid === undefined) {
    const { wait } = view;
    if (wait !== undefined) {
      return { type, status: "FALSE", reason: wait.reason, message: waitText(wait) };
    }
    if (row.pendingOp?.op === "earlier-snapshot") {
      const message = "its row is older than its store, which was not read yet: it may be taken";
      return { type, status: "UNKNOWN", reason: "NotSeenYet", message };
    }
    const message = row.lastError ?? "not taken yet";
    return { type, status: "FALSE", reason: row.failed ? "Failed" : "NotCreated", message };
  }
  if (observed?.kind === "present") return { type, status: "TRUE", reason: "Seen", message: "" };
  const message = "not observed yet since the SPDK target started";
  return { type, status: "UNKNOWN", reason: "NotSeenYet", message };
}

/** Ids of what stands on a snapshot. */
export type Clones = {
  /** Volumes and snapshots that were last observed to be its clones. */
  readonly made: readonly string[];
  /** Volumes that are to become its clones and are not yet. */
  readonly pending: readonly string[];
};

type Members = {
  readonly lvols: Iterable<LvolRow>;
  readonly snapshots: Iterable<SnapshotRow>;
};

/** The clones of a snapshot among the rows of its family. */
export function clonesOf(id: string, { lvols, snapshots }: Members): Clones {
  const made: string[] = [];
  const pending: string[] = [];
  for (const row of lvols) {
    if (row.deleteTime !== undefined) continue;
    if (row.cloning && row.request.sourceSnapshotId === id) pending.push(row.id);
    else if (row.parentId === id) made.push(row.id);
  }
  for (const row of snapshots) {
    if (row.deleteTime === undefined && row.parentId === id) made.push(row.id);
  }
  return { made: made.toSorted(), pending: pending.toSorted() };
}

/**
 * Who keeps the snapshot from being deleted; empty: nobody. SPDK merges it into a single clone; one that
 * is still being made needs it as it is.
 */
export function deleteBlockers({ made, pending }: Clones): readonly string[] {
  return made.length + pending.length > 1 || pending.length > 0 ? [...made, ...pending] : [];
}
