// Explains the state of a snapshot: whether it is taken, and what keeps it from being deleted.
import { formatBytes } from "../model/bytes.ts";
import type { DiskRow, DiskState } from "../model/disk.ts";
import {
  deleteBlockers,
  snapshotMissing,
  snapshotState,
  type SnapshotView,
} from "../model/snapshot.ts";
import {
  errorCheck,
  ifFuture,
  instant,
  nextStepText,
  nodeCause,
  outcomeCause,
  suspectCause,
  targetCause,
  type Cause,
  type Check,
  type Explanation,
  type NextStep,
  type NodeFacts,
} from "./explanation.ts";
import { diskCause } from "./lvol-facts.ts";

export type SnapshotFacts = {
  readonly view: SnapshotView;
  readonly disk: DiskRow | undefined;
  readonly diskState: DiskState | undefined;
  readonly node: NodeFacts;
  readonly steps: readonly NextStep[];
  /** A step was dispatched and is not answered yet. */
  readonly inFlight: boolean;
  /** The same of its disk. */
  readonly diskStep?: boolean | undefined;
};

export function explainSnapshot(facts: SnapshotFacts): Explanation {
  const { view, node, steps, inFlight } = facts;
  const { row } = view;
  const first = CAUSES.map((causeOf) => causeOf(facts)).find((cause) => cause !== undefined);
  const nextTryTime = ifFuture(row.nextTryTime, node.now);
  const idle = first?.waits ?? "all is as wanted";
  const nextStep = nextStepText({ steps, inFlight, idle, nextTryTime }, node);
  const head = `snapshot ${row.id} is ${snapshotState(view)}`;
  const why =
    first === undefined ? whenWell(view, nextStep) : `${first.cause}; cure: ${first.cure}`;
  const lastError = row.lastError;
  return {
    summary: `${head}: ${why}`,
    checks: [takenCheck(facts, first), clonesCheck(facts), errorCheck(row, node, first)],
    nextStep,
    lastError,
    nextTryTime,
  };
}

function whenWell(view: SnapshotView, nextStep: string): string {
  const { sourceLvolId, observedSizeBytes } = view.row;
  if (snapshotState(view) !== "UP" || observedSizeBytes === undefined) return nextStep;
  const source = sourceLvolId === undefined ? "a volume" : `volume ${sourceLvolId}`;
  return `${formatBytes(observedSizeBytes)} of ${source}, read through its clones`;
}

const CAUSES: readonly ((facts: SnapshotFacts) => Cause | undefined)[] = [
  deleted,
  ({ node }) => nodeCause(node),
  failed,
  ({ node, view }) => targetCause(node, view.targetConnected),
  diskCause,
  ({ view }) => suspectCause(view.failures),
  ({ view }) => outcomeCause(view.row.id, view.outcomeUnknown),
  ({ view }) => view.wait,
  blocked,
  lost,
];

function deleted({ view: { row } }: SnapshotFacts): Cause | undefined {
  if (row.deleteTime === undefined) return undefined;
  return {
    cause: `it was deleted at ${instant(row.deleteTime)}`,
    cure: "call Snapshot with a new id: the data of a deleted snapshot cannot be restored",
    waits: "its deletion is complete",
  };
}

function failed({ view: { row } }: SnapshotFacts): Cause | undefined {
  if (!row.failed || row.deleteRequestedTime !== undefined) return undefined;
  return {
    cause: `the agent has given up: ${row.lastError ?? "no error was recorded"}`,
    cure: `call Delete {"snapshotId": "${row.id}"}, and Snapshot with a new id`,
    waits: "only a new intent makes it try again",
  };
}

function blocked({ view: { row, clones } }: SnapshotFacts): Cause | undefined {
  const blockers = deleteBlockers(clones);
  if (row.deleteRequestedTime === undefined || blockers.length === 0) return undefined;
  return {
    cause: `its deletion waits for ${blockers.join(", ")}, which stand on it`,
    cure: "delete all but one of them",
    waits: "waits until at most one clone is left",
  };
}

function lost({ view }: SnapshotFacts): Cause | undefined {
  if (!snapshotMissing(view)) return undefined;
  return {
    cause: `lvol ${view.row.lvolUuid} is gone from the disk, and not by this agent`,
    cure: `call Delete {"snapshotId": "${view.row.id}"}; its data is lost`,
    waits: "waits for the lvol to reappear or the snapshot to be deleted",
  };
}

function takenCheck({ view }: SnapshotFacts, first: Cause | undefined): Check {
  const question = "Is the snapshot taken, and on the target?";
  const { row, observed } = view;
  if (observed?.kind === "present" && row.lvolUuid !== undefined) {
    const evidence = `lvol ${observed.uuid}, ${formatBytes(observed.sizeBytes)}`;
    return { question, answer: "YES", evidence, remedy: "" };
  }
  const remedy = first?.cure ?? "wait: it is taken as soon as the volume can be read";
  if (observed === undefined) {
    const evidence = "it was not observed yet since the target started";
    return { question, answer: "UNKNOWN", evidence, remedy };
  }
  const evidence =
    row.lvolUuid === undefined ? "it is not taken yet" : `lvol ${row.lvolUuid} is gone`;
  return { question, answer: "NO", evidence, remedy };
}

function clonesCheck({ view: { clones } }: SnapshotFacts): Check {
  const question = "Could it be deleted, as at most one clone stands on it?";
  const blockers = deleteBlockers(clones);
  const evidence = `${clones.made.length} clones, ${clones.pending.length} being made`;
  if (blockers.length === 0) return { question, answer: "YES", evidence, remedy: "" };
  const named = `${evidence}: ${blockers.join(", ")}`;
  return { question, answer: "NO", evidence: named, remedy: "delete all but one of them first" };
}
