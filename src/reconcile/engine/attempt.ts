// Runs one call of a step against the target and tells apart its three ends: answered, refused, and
// unknown. An unknown end keeps the step's lanes closed until it is known that nothing of it runs.
import { SpdkError, SpdkNotSent, SpdkUnknownOutcome } from "../../spdk/errors.ts";
import type { StepResult } from "./driver.ts";
import type { Lane } from "./lanes.ts";

export type Attempt<T> =
  | { readonly kind: "ok"; readonly value: T }
  | { readonly kind: "refused"; readonly error: SpdkError }
  /** Nothing was sent, or nobody knows: to be looked at again, not to be concluded from. */
  | { readonly kind: "open"; readonly message: string };

/** Resolves once a request whose connection was lost can no longer be running. */
export type AfterLoss = () => Promise<void>;

export async function attempt<T>(
  call: Promise<T>,
  lane: Lane,
  afterLoss: AfterLoss,
): Promise<Attempt<T>> {
  try {
    return { kind: "ok", value: await call };
  } catch (error) {
    if (error instanceof SpdkError) return { kind: "refused", error };
    if (error instanceof SpdkNotSent) return { kind: "open", message: error.message };
    if (error instanceof SpdkUnknownOutcome) {
      const end = error.settled.then((settled) =>
        settled.kind === "unknown" ? afterLoss() : undefined,
      );
      lane.keepClosedUntil(end);
      return { kind: "open", message: error.message };
    }
    throw error;
  }
}

/** What a step reports of calls that did not all succeed. */
export function retryOf(attempts: readonly Attempt<unknown>[]): StepResult {
  for (const one of attempts) {
    if (one.kind === "refused") {
      const { method, code, spdkMessage } = one.error;
      return { kind: "retry", message: `${method} answered ${code} (${spdkMessage})` };
    }
    if (one.kind === "open") return { kind: "retry", message: one.message };
  }
  return { kind: "ok" };
}
