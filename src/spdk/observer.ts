// What the connection tells whoever measures it: one start and one end per call, for spans,
// histograms and the count of full dumps. It never sees parameters or results.

import type { Outcome } from "./outcome.ts";

export type CallStart = {
  readonly method: string;
  readonly mutates: boolean;
  readonly dump: boolean;
  readonly requestBytes: number;
  /** Calls of this connection that had no answer yet when this one was made. */
  readonly queued: number;
};

export type CallEnd = { readonly outcome: Outcome; readonly durationMs: number };

/** Called in the caller's own async context; what it returns is called once, with the outcome. */
export type CallObserver = (start: CallStart) => ((end: CallEnd) => void) | undefined;
