// Intents that wait for the writer's next transaction, and the outcome of each in it.
import type { Span } from "@opentelemetry/api";
import type { Logger } from "pino";
import {
  admit,
  changedIds,
  type AdmissionState,
  type Decision,
  type Mutation,
} from "../model/admission.ts";
import { Refusal } from "../model/errors.ts";
import { intentEvents, type IntentChange } from "../model/event.ts";
import { isDatabaseDown, isLockedOut } from "./database.ts";
import type { EventLog } from "./event-log.ts";
import type { DiskRow } from "../model/disk.ts";
import type { LvolRow } from "../model/lvol.ts";
import type { SnapshotRow } from "../model/snapshot.ts";
import type { Fence } from "./fence.ts";
import { ATTR } from "../telemetry/attributes.ts";
import { endSpan, failed } from "../telemetry/trace.ts";

export type Waiting = {
  readonly mutation: Mutation;
  readonly span: Span | undefined;
  readonly resolve: (admitted: Admitted) => void;
  readonly reject: (error: unknown) => void;
};

/** written: the intent changed something; false for a repeat of what is wanted already. */
export type Admitted = {
  readonly decision: Decision;
  readonly written: boolean;
  readonly changes: readonly IntentChange[];
};

export type Outcome = { readonly waiting: Waiting; readonly result: Admitted | Refusal };

/** Rejects all intents of a batch that was not committed, and ends their spans. */
export function refuse(batch: readonly Waiting[], error: unknown): void {
  for (const { span, reject } of batch) {
    if (span !== undefined) {
      failed(span, error instanceof Error ? error.message : String(error));
      endSpan(span);
    }
    reject(error);
  }
}

/**
 * Answers the intents of a batch that was committed. One that takes something away is answered once the
 * local copy says so, too: an agent that starts without the database must not give it back.
 */
export function answer(
  outcomes: readonly Outcome[],
  copy: { readonly keep: () => Promise<void> } | undefined,
): void {
  let kept: Promise<void> | undefined;
  for (const { waiting, result } of outcomes) {
    const { mutation, resolve, reject } = waiting;
    if (result instanceof Refusal) reject(result);
    else if (!takesAway(mutation)) resolve(result);
    else {
      kept ??= copy?.keep() ?? Promise.resolve();
      kept.then(
        () => resolve(result),
        (cause: unknown) => reject(copyStale(cause)),
      );
    }
  }
}

function takesAway({ kind }: Mutation): boolean {
  switch (kind) {
    case "delete":
    case "revokeHost":
    case "releaseDisk":
      return true;
    case "snapshot":
    case "deleteSnapshot":
    case "provision":
    case "allowHost":
    case "confirmHosts":
    case "adoptOrphan":
    case "resize":
    case "update":
    case "admitDisk":
    case "endAdmission":
    case "inspectDisk":
    case "adoptDisk":
    case "inspectController":
    case "wipeDisk":
    case "zeroFreeSpace":
    case "cordon":
      return false;
  }
}

/**
 * Applies an intent to the state, where later intents of the batch see it, or returns a Refusal.
 */
export function decide(state: AdmissionState, { mutation, span }: Waiting): Admitted | Refusal {
  const ids = changedIds(mutation);
  const before = ids.map((id) => [id, rowsOf(state, id)] as const);
  try {
    const decision = admit(state, mutation);
    const { row } = decision;
    if (row !== undefined) span?.setAttribute(ATTR.generation, row.generation.toString());
    if ((decision.kind === "lvol" || decision.kind === "snapshot") && decision.row !== undefined) {
      span?.setAttribute(ATTR.diskId, decision.row.diskId);
    }
    const changes = before.flatMap(([id, was]) => changesBetween(was, rowsOf(state, id)));
    const isNew = decision.kind === "controller" && decision.row.revision === state.revision;
    const written = changes.length > 0 || isNew || (decision.kind === "cordon" && decision.changed);
    return { decision, written, changes };
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (span !== undefined) failed(span, error.message);
    return error;
  }
}

type RowsOfId = {
  readonly lvol: LvolRow | undefined;
  readonly snapshot: SnapshotRow | undefined;
  readonly disk: DiskRow | undefined;
};

function rowsOf({ lvols, snapshots, disks }: AdmissionState, id: string): RowsOfId {
  return { lvol: lvols.get(id), snapshot: snapshots.get(id), disk: disks.get(id) };
}

function changesBetween(was: RowsOfId, { lvol, snapshot, disk }: RowsOfId): IntentChange[] {
  const changes: IntentChange[] = [];
  if (lvol !== undefined && lvol !== was.lvol) {
    changes.push({ kind: "lvol", before: was.lvol, after: lvol });
  }
  if (snapshot !== undefined && snapshot !== was.snapshot) {
    changes.push({ kind: "snapshot", before: was.snapshot, after: snapshot });
  }
  if (disk !== undefined && disk !== was.disk) {
    changes.push({ kind: "disk", before: was.disk, after: disk });
  }
  return changes;
}

/** Throws a Refusal if the agent may not write now. `connected`: the database was reached. */
export function refuseUnlessLeading(
  { epoch, hold }: Pick<Fence, "epoch" | "hold">,
  connected: boolean,
): void {
  if (hold !== undefined) throw new Refusal("ON_HOLD", hold);
  if (epoch !== undefined) return;
  throw connected ? notLeaseHolder() : databaseDown("the database was not reached yet");
}

export function notLeaseHolder(): Refusal {
  const message = "this agent does not hold the lease of its node";
  return new Refusal("NOT_LEASE_HOLDER", message, { retryAfterMs: 1_000 });
}

export function databaseDown(message: string, cause?: unknown): Refusal {
  return new Refusal("DATABASE_DOWN", message, { retryAfterMs: 1_000, cause });
}

/** The transaction of the intent got no answer. */
function outcomeUnknown(cause: unknown): Refusal {
  const message =
    "the database cannot be reached; it is unknown whether the change was committed: repeat the call";
  return databaseDown(message, cause);
}

/** What callers are told of a transaction that failed. */
export function failureOf(error: unknown): unknown {
  if (!isDatabaseDown(error)) return error;
  if (!isLockedOut(error)) return outcomeUnknown(error);
  // It was cancelled as a whole: nothing was changed.
  const why = error instanceof Error ? error.message : String(error);
  return databaseDown(`no change can be committed now, repeat the call: ${why}`, error);
}

/** Tells log and events of an intent that was committed. */
export function tell(
  { log, events }: { readonly log: Logger; readonly events?: Pick<EventLog, "add"> | undefined },
  mutation: Mutation,
  { decision, changes }: Admitted,
): void {
  log.info(logFields(mutation, decision), "intent committed");
  const time = new Date();
  events?.add(() => intentEvents(mutation, changes, time));
}

/** What the log says of a committed intent. */
function logFields(mutation: Mutation, { row }: Decision) {
  const { kind, id, actor } = mutation;
  const generation = row?.generation.toString();
  return { intent: kind, id, generation, actor, ...reasonOf(mutation) };
}

/** Why, where a caller must say so: a forced deletion, and hosts of an older database. */
function reasonOf(mutation: Mutation): object {
  const isForced = "force" in mutation && mutation.force;
  if (isForced) return { reason: mutation.reason };
  if (mutation.kind === "cordon") {
    const { of, cordoned, reason } = mutation;
    return { of, cordoned, reason };
  }
  if (mutation.kind !== "confirmHosts") return {};
  const { reason, confirmations } = mutation;
  return { reason, confirmations };
}

function copyStale(cause: unknown): Refusal {
  const why = cause instanceof Error ? cause.message : String(cause);
  const message = `the change is committed, but the local copy of what was wanted before could not be removed: ${why}`;
  return new Refusal("LOCAL_COPY_STALE", message, { retryAfterMs: 1_000, cause });
}
