// A change of the target that was written down before it was sent. As long as it stands in the row,
// nobody may conclude from what is seen that it has ended: it may still be running (DESIGN 3.2).

export type PendingOpKind = "delete" | "attach" | "detach" | "create-store" | "zero-free-space";

export type PendingOp = {
  readonly op: PendingOpKind;
  /** The incarnation of the target that it was meant for. The name is that of the stored key. */
  readonly run: string;
  /** The lease epoch of the agent that was to send it. */
  readonly epoch: bigint;
  readonly since: Date;
  /** It was answered with an error that may have left half of it done. */
  readonly failed: boolean;
};

/** Who asks: this agent, in this incarnation of the target, at this moment. */
export type PendingContext = {
  readonly incarnation: string | undefined;
  readonly epoch: bigint | undefined;
  readonly now: Date;
  /** From then on, what an earlier agent had sent in this run has ended. */
  readonly graceUntil: Date;
};

/**
 * - own: written down by this agent; its lanes know whether it runs.
 * - running: an earlier agent sent it, perhaps, and it may still be under way.
 * - over: an earlier agent's, and by now what is seen counts.
 * - interrupted: the target that it was sent to died; whether it was done halfway nobody knows.
 */
export type PendingOpPhase = "none" | "own" | "running" | "over" | "interrupted";

export function pendingOpPhase(
  op: PendingOp | undefined,
  { incarnation, epoch, now, graceUntil }: PendingContext,
): PendingOpPhase {
  if (op === undefined) return "none";
  if (op.run !== incarnation) return "interrupted";
  if (op.epoch === epoch) return "own";
  return now < graceUntil ? "running" : "over";
}

/** The note to write down before a change is sent; undefined while there is no run or no lease. */
export function pendingOp(op: PendingOpKind, context: PendingContext): PendingOp | undefined {
  const { incarnation, epoch, now } = context;
  if (incarnation === undefined || epoch === undefined) return undefined;
  return { op, run: incarnation, epoch, since: now, failed: false };
}

/** Whether free clusters of its store may hold what it was to clear. */
export function leavesDirt(op: PendingOp | undefined, incarnation: string | undefined): boolean {
  if (op === undefined || incarnation === undefined || op.op !== "delete") return false;
  return op.failed || op.run !== incarnation;
}
