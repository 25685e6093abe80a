// A change that was sent and whose answer was lost: it may have been carried out, may be running, or not.

import type { Condition } from "./condition.ts";

/** What such a change is of. */
export const OUTCOME_SUBJECTS = ["subsystem", "lvol", "disk"] as const;

export type OutcomeSubject = (typeof OUTCOME_SUBJECTS)[number];

export type UnknownOutcome = {
  readonly method: string;
  readonly since: Date;
  readonly of: OutcomeSubject;
};

/** Changes after which a host may no longer be let in although a read still shows it. */
const TAKING_AWAY: ReadonlySet<string> = new Set([
  "nvmf_subsystem_remove_host",
  "nvmf_subsystem_allow_any_host",
  "nvmf_subsystem_remove_listener",
  "nvmf_subsystem_remove_ns",
  "nvmf_delete_subsystem",
]);

export function takesAway({ method }: UnknownOutcome): boolean {
  return TAKING_AWAY.has(method);
}

/** The condition that says so; none where every outcome is known. */
export function outcomeConditions(
  unknown: UnknownOutcome | undefined,
): readonly Condition<"OutcomeUnknown">[] {
  if (unknown === undefined) return [];
  const message = `${unknown.method} was sent and not answered since ${unknown.since.toISOString()}`;
  return [{ type: "OutcomeUnknown", status: "TRUE", reason: "AnswerLost", message }];
}
