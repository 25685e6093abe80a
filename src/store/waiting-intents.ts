// Intents that wait for the writer's next transaction, and the outcome of each in it.
import type { Span } from "@opentelemetry/api";
import {
  admit,
  changedIds,
  type AdmissionState,
  type Decision,
  type Mutation,
} from "../model/admission.ts";
import { Refusal } from "../model/errors.ts";
import { ATTR } from "../telemetry/attributes.ts";
import { endSpan, failed } from "../telemetry/trace.ts";

export type Waiting = {
  readonly mutation: Mutation;
  readonly span: Span | undefined;
  readonly resolve: (admitted: Admitted) => void;
  readonly reject: (error: unknown) => void;
};

/** written: the intent changed a row; false for a repeat of what is wanted already. */
export type Admitted = { readonly decision: Decision; readonly written: boolean };

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
 * Applies an intent to the state, where later intents of the batch see it, or returns a Refusal.
 */
export function decide(state: AdmissionState, { mutation, span }: Waiting): Admitted | Refusal {
  const ids = changedIds(mutation);
  const wanted = () => ids.map((id) => state.lvols.get(id) ?? state.disks.get(id));
  const before = wanted();
  try {
    const decision = admit(state, mutation);
    const { row } = decision;
    if (row !== undefined) span?.setAttribute(ATTR.generation, row.generation.toString());
    if (decision.kind === "lvol" && decision.row !== undefined) {
      span?.setAttribute(ATTR.diskId, decision.row.diskId);
    }
    return { decision, written: wanted().some((row, index) => row !== before[index]) };
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (span !== undefined) failed(span, error.message);
    return error;
  }
}

export function notLeaseHolder(): Refusal {
  const message = "this agent does not hold the lease of its node";
  return new Refusal("NOT_LEASE_HOLDER", message, { retryAfterMs: 1_000 });
}

export function databaseDown(message: string, cause?: unknown): Refusal {
  return new Refusal("DATABASE_DOWN", message, { retryAfterMs: 1_000, cause });
}
