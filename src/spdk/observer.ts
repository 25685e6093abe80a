// Interface for observing the calls of a connection: one start and one end per call, for spans,
// histograms and the count of full dumps. It never sees parameters or results.

import type { Outcome } from "./outcome.ts";

export type CallStart = {
  readonly method: string;
  readonly mutates: boolean;
  readonly dump: boolean;
  readonly requestBytes: number;
  /** Calls of this connection without an answer when this call was made. */
  readonly queued: number;
};

export type CallEnd = { readonly outcome: Outcome; readonly durationMs: number };

/** Runs in the caller's async context. The returned function is called once, with the outcome. */
export type CallObserver = (start: CallStart) => ((end: CallEnd) => void) | undefined;
