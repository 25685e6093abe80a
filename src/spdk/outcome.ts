// What can become of one JSON-RPC call. "Unknown" is a result of its own: after a timeout or a lost
// connection the target may still be working, and nobody may conclude anything from the silence.

/** The target answered. `code` and `message` are SPDK's own; the text is for logs only. */
export type Answer =
  | { readonly kind: "ok"; readonly result: unknown }
  | { readonly kind: "error"; readonly code: number; readonly message: string };

/**
 * No byte of the request was given to the socket, so nothing can have happened.
 * `down`: no connection; `fenced`: this process may not change anything now;
 * `timeout`, `aborted`: the caller's wait ended while the request still queued here.
 */
export type NotSent = {
  readonly kind: "not_sent";
  readonly reason: "down" | "fenced" | "timeout" | "aborted";
};

/** The request was sent and its connection went away before the answer. It may still be running. */
export type Lost = { readonly kind: "unknown"; readonly reason: "disconnected" };

/** How a call ended for good. Never a timeout: a timed-out request is still running. */
export type Settled = Answer | NotSent | Lost;

/** What the caller got for its wait: the end, or that it has not ended yet. */
export type Outcome =
  Settled | { readonly kind: "unknown"; readonly reason: "timeout" | "aborted" };

/** Neither promise ever rejects. */
export type Call = {
  /** Within the call's waitMs, or at once when its signal aborts. */
  readonly outcome: Promise<Outcome>;
  /** With the answer, however late, or when the connection is gone. Lanes wait for this one. */
  readonly settled: Promise<Settled>;
};
