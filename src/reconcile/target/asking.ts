// Reads of the target from which a call is answered at once: without an answer of the target, or of the same
// target to all that was asked, there is none for the caller either.
import { Refusal } from "../../model/errors.ts";
import { SpdkError, SpdkNotSent, SpdkUnknownOutcome } from "../../spdk/errors.ts";
import type { Observed } from "./observed.ts";

type Incarnation = Pick<Observed, "incarnation">;

/** Throws the Refusal TARGET_DOWN if the target does not answer. */
export async function asking<T>(read: Promise<T>): Promise<T> {
  try {
    return await read;
  } catch (error) {
    const down = error instanceof SpdkUnknownOutcome || error instanceof SpdkNotSent;
    if (down || error instanceof SpdkError) throw targetDown(error.message, error);
    throw error;
  }
}

/** For several reads: what they do not find may be in a store that a restarted target has not loaded yet. */
export async function askingOne<T>(observed: Incarnation, read: () => Promise<T>): Promise<T> {
  requireTarget(observed);
  const { incarnation } = observed;
  const found = await asking(read());
  if (observed.incarnation !== incarnation) throw targetDown("the SPDK target was restarted");
  return found;
}

export function requireTarget({ incarnation }: Incarnation): void {
  if (incarnation !== undefined) return;
  throw targetDown("the SPDK target does not answer, or is not identified");
}

export function storeLoading(diskId: string): Refusal {
  return new Refusal("STORE_LOADING", `the lvstore of disk ${diskId} is not loaded yet`, {
    metadata: { disk: diskId },
    retryAfterMs: 1_000,
  });
}

function targetDown(message: string, cause?: unknown): Refusal {
  return new Refusal("TARGET_DOWN", message, { retryAfterMs: 1_000, cause });
}
