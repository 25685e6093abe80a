// What one transaction of the writer commits, and its division when PostgreSQL refuses the data of a part.
import type { Span } from "@opentelemetry/api";
import { Refusal } from "../model/errors.ts";
import { objectEntries, type StatusEntries } from "./status-queue.ts";
import type { Waiting } from "./waiting-intents.ts";

export type Work = StatusEntries & {
  /** Admitted after the status was written. */
  readonly intents: readonly Waiting[];
};

/** Which objects it is about, for the log. */
export function idsOf(work: Work) {
  const intents = work.intents.map(({ mutation: { kind, id } }) => ({ intent: kind, id }));
  return { records: objectEntries(work).map(({ id }) => id), intents };
}

/** Objects and intents, and the process of the target. */
export function workSize(work: Work): number {
  const processes = work.targetProcess === undefined ? 0 : 1;
  return processes + objectEntries(work).length + work.intents.length;
}

/** The intents of parts that were not committed. */
export function left(parts: readonly Work[]): readonly Waiting[] {
  return parts.flatMap(({ intents }) => intents);
}

/** The spans of all who wait, given away: they end with the first transaction that is tried. */
export function takeSpans(work: Work): readonly Span[] {
  const status = objectEntries(work).flatMap(({ spans }) => spans.splice(0));
  return [...work.intents.flatMap(({ span }) => span ?? []), ...status];
}

/** Both halves, in order. Whoever divides on until one is left finds a culprit in few transactions. */
export function halves(work: Work): readonly [Work, Work] {
  const size = workSize(work);
  const middle = Math.floor(size / 2);
  return [slice(work, 0, middle), slice(work, middle, size)];
}

function slice(work: Work, from: number, to: number): Work {
  const { targetProcess, inserts, restored, lvols, snapshots, disks } = work;
  let start = 0;
  const part = <T>(list: readonly T[]): readonly T[] => {
    const [first, last] = [from - start, to - start].map((index) => Math.max(0, index));
    start += list.length;
    return list.slice(first, last);
  };
  const [first] = part(targetProcess === undefined ? [] : [targetProcess]);
  return {
    targetProcess: first,
    inserts: part(inserts),
    restored: part(restored),
    lvols: part(lvols),
    snapshots: part(snapshots),
    disks: part(disks),
    newControllers: part(work.newControllers),
    controllers: part(work.controllers),
    intents: part(work.intents),
  };
}

/**
 * Whether PostgreSQL has refused what was to be written, by SQLSTATE: data exceptions (22), constraints
 * (23), limits of the program (54). Repeating it cannot help.
 */
export function isDataError(error: unknown): boolean {
  return /^(22|23|54)/.test(sqlStateOf(error));
}

/** The refusal of the one intent whose data PostgreSQL has refused. */
export function dataRefusal(cause: unknown): Refusal {
  // Admission keeps all constraints: one that is violated is a fault of the agent.
  if (sqlStateOf(cause).startsWith("23")) {
    return new Refusal("INTERNAL", "the change violates a constraint of the database", { cause });
  }
  const message = "the database cannot store a value of the request";
  return new Refusal("INVALID_FIELD", message, { cause });
}

function sqlStateOf(error: unknown): string {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  return typeof code === "string" && code.length === 5 ? code : "";
}
