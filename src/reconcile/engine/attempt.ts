// Runs one SPDK call of a step and classifies its outcome: answered, refused, or open. After a
// request of unknown outcome, the step's lanes stay closed until it can no longer be running.
import { SpdkError, SpdkNotSent, SpdkUnknownOutcome } from "../../spdk/errors.ts";
import type { StepResult } from "./kind.ts";
import type { Lane } from "./lanes.ts";

export type Attempt<T> =
  | { readonly kind: "ok"; readonly value: T }
  | { readonly kind: "refused"; readonly error: SpdkError }
  /** The request was not sent, or its outcome is unknown: the object has to be read again. */
  | { readonly kind: "open"; readonly message: string };

/** Resolves once a request whose connection was lost can no longer be running. */
export type AfterLoss = () => Promise<void>;

/**
 * lost: keeps an account of requests whose answers were lost; resolves when one has ended, perhaps
 * before its own answer or the loss of its connection shows it.
 */
export async function attempt<T>(
  call: Promise<T>,
  lane: Lane,
  afterLoss: AfterLoss,
  lost: (method: string, ended: Promise<void>) => Promise<void> = (_method, ended) => ended,
): Promise<Attempt<T>> {
  try {
    return { kind: "ok", value: await call };
  } catch (error) {
    if (error instanceof SpdkError) return { kind: "refused", error };
    if (error instanceof SpdkNotSent) return { kind: "open", message: error.message };
    if (error instanceof SpdkUnknownOutcome) {
      const ended = error.settled.then(async (settled) => {
        if (settled.kind === "unknown") await afterLoss();
      });
      lane.keepClosedUntil(lost(error.method, ended));
      return { kind: "open", message: error.message };
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
    if (made.kind === "open") return { kind: "retry", message: made.message };
  }
  return { kind: "ok" };
}
