// Runs one SPDK call of a step and classifies its outcome: answered, refused, or open. After a
// change of unknown outcome, the step's lanes stay closed until it can no longer be running.
import { SpdkError, SpdkNotSent, SpdkUnknownOutcome } from "../../spdk/errors.ts";
import type { StepResult } from "./kind.ts";
import type { Lane } from "./lanes.ts";

export type Attempt<T> =
  | { readonly kind: "ok"; readonly value: T }
  | { readonly kind: "refused"; readonly error: SpdkError }
  /** The request was not sent, or its outcome is unknown: the object has to be read again. */
  | { readonly kind: "open"; readonly message: string; readonly sent: boolean };

/** Resolves once a request whose connection was lost can no longer be running. */
export type AfterLoss = () => Promise<void>;

/** What a call that changes something needs for the case that its answer is lost. */
export type Change = {
  /** Stays closed until the request has ended. */
  readonly lane: Lane;
  readonly afterLoss: AfterLoss;
  /**
   * Keeps an account of requests whose answers were lost; resolves when one has ended, perhaps before
   * its own answer or the loss of its connection shows it.
   */
  readonly lost: (method: string, ended: Promise<void>) => Promise<void>;
};

/** change: of a call that changes something; a read that is lost keeps nothing closed. */
export async function attempt<T>(call: Promise<T>, change?: Change): Promise<Attempt<T>> {
  try {
    return { kind: "ok", value: await call };
  } catch (error) {
    if (error instanceof SpdkError) return { kind: "refused", error };
    if (error instanceof SpdkNotSent) {
      return { kind: "open", message: error.message, sent: false };
    }
    if (error instanceof SpdkUnknownOutcome) {
      if (change !== undefined) {
        const ended = error.settled.then(async (settled) => {
          if (settled.kind === "unknown") await change.afterLoss();
        });
        change.lane.keepClosedUntil(change.lost(error.method, ended));
      }
      return { kind: "open", message: error.message, sent: true };
    }
    throw error;
  }
}

/** The result of a step from its calls: retry with the first failure, or ok if all succeeded. */
export function retryOf(attempts: readonly Attempt<unknown>[]): StepResult {
  for (const made of attempts) {
    if (made.kind === "refused") {
      const { method, code, spdkMessage } = made.error;
      return { kind: "retry", message: `${method} answered ${code} (${spdkMessage})` };
    }
    if (made.kind === "open") {
      const unanswered = made.sent ? "lost" : "not-sent";
      return { kind: "retry", message: made.message, unanswered };
    }
  }
  return { kind: "ok" };
}
