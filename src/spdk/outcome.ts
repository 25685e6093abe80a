// Outcomes of one JSON-RPC call. "unknown" is an outcome of its own: after a timeout or a lost
// connection the target may still execute the request, so a caller may assume neither success nor
// failure.

/** The target answered. `code` and `message` come from SPDK; `message` is for logs only. */
export type Answer =
  | { readonly kind: "ok"; readonly result: unknown }
  | { readonly kind: "error"; readonly code: number; readonly message: string };

/**
 * No byte of the request was written to the socket, so the target did not execute it.
 * `down`: no connection; `fenced`: the write fence refuses the method now;
 * `timeout`, `aborted`: the caller's wait ended while the request was queued in this process.
 */
export type NotSent = {
  readonly kind: "not_sent";
  readonly reason: "down" | "fenced" | "timeout" | "aborted";
};

/**
 * The request was sent and the connection was lost before the answer: it may still be running.
 * `too_long`: lost because an answer, perhaps that of this request, is longer than SPDK can send.
 */
export type Lost = { readonly kind: "unknown"; readonly reason: "disconnected" | "too_long" };

/** The final outcome of a call. Never a timeout: a timed-out request is still running. */
export type Settled = Answer | NotSent | Lost;

/** What the caller's wait returned: the final outcome, or that the call had not ended yet. */
export type Outcome =
  Settled | { readonly kind: "unknown"; readonly reason: "timeout" | "aborted" };

/** Neither promise ever rejects. */
export type Call = {
  /** Resolves within the call's waitMs, or at once when its signal aborts. */
  readonly outcome: Promise<Outcome>;
  /** Resolves with the answer, however late, or when the connection is lost. Lanes wait for it. */
  readonly settled: Promise<Settled>;
};
