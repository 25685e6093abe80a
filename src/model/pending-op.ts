// Pending ops: a change of the target that is written to the row before it is sent. While the row
// has one, no observation of the target proves that the change has ended; it may be running
// (docs/architecture.md#r2-unknown-outcomes).

export const PENDING_OPS = [
  "delete",
  "resize",
  "snapshot",
  "earlier-snapshot",
  "clone",
  "inflate",
  "attach",
  "detach",
  "create-store",
  "zero-free-space",
  "purge-orphan",
] as const;

/**
 * clone: what makes an lvol the clone of its snapshot, but for the inflation of a thick one. delete: of a
 * volume or a snapshot; the latter merges it into its clone. earlier-snapshot: an agent whose records are
 * lost may have sent it; it is never sent.
 */
export type PendingOpKind = (typeof PENDING_OPS)[number];

export type PendingOp = {
  readonly op: PendingOpKind;
  /** Incarnation of the target that the change is meant for. Named after the stored JSON key. */
  readonly run: string;
  /** The lease epoch of the agent that was to send it. */
  readonly epoch: bigint;
  readonly since: Date;
  /** The target answered with an error that may have left the change half done. */
  readonly failed: boolean;
};

/** What a pending op is compared with: the target's incarnation, this agent's lease, the time. */
export type PendingContext = {
  readonly incarnation: string | undefined;
  readonly epoch: bigint | undefined;
  readonly now: Date;
  /** End of the grace: by then, requests of an earlier agent to this incarnation have ended. */
  readonly graceUntil: Date;
  /** It is not known whether the earlier incarnation has exited: what was sent to it may be running. */
  readonly earlierMayRun: boolean;
};

/**
 * - own: written by this agent under its present lease; its lanes know whether it is running.
 * - running: written by an earlier agent, or for an earlier incarnation that may not have exited; it may
 *   still be running.
 * - over: written by an earlier agent, and the grace has passed: observations are reliable again.
 * - interrupted: meant for another incarnation of the target, and not running any more; it may have been
 *   left half done.
 */
export type PendingOpPhase = "none" | "own" | "running" | "over" | "interrupted";

export function pendingOpPhase(op: PendingOp | undefined, context: PendingContext): PendingOpPhase {
  const { incarnation, epoch, earlierMayRun } = context;
  if (op === undefined) return "none";
  if (op.run !== incarnation)
    return earlierMayRun && isInGrace(context) ? "running" : "interrupted";
  if (op.epoch === epoch) return "own";
  return isInGrace(context) ? "running" : "over";
}

/**
 * Whether any request of an earlier agent may still be running, also one that no row announces: the making or
 * the renaming of an lvol or a store, or an attach while the database was away.
 */
export function isInGrace({
  now,
  graceUntil,
}: Pick<PendingContext, "now" | "graceUntil">): boolean {
  return now < graceUntil;
}

/** The pending op to write before a change is sent; undefined without incarnation or lease. */
export function pendingOp(op: PendingOpKind, context: PendingContext): PendingOp | undefined {
  const { incarnation, epoch, now } = context;
  if (incarnation === undefined || epoch === undefined) return undefined;
  return { op, run: incarnation, epoch, since: now, failed: false };
}

/**
 * Of a snapshot that was not taken, as an older database says. It was sent to an incarnation that nobody knows:
 * the store says what came of it, once it is read.
 */
export function earlierSnapshot(now: Date): PendingOp {
  return { op: "earlier-snapshot", run: "", epoch: 0n, since: now, failed: false };
}

/**
 * Whether free clusters of the lvstore may hold data: this delete was to clear them, or the inflation of
 * a clone was filling them, and it failed or the incarnation that it was sent to has exited; or what is
 * deleted was not made by an agent, as SPDK does not show whether such an lvol is cleared.
 */
export function leavesDirt(row: MayLeaveDirt, incarnation: string | undefined): boolean {
  return isDirt(dirtOf(row), incarnation);
}

/** Stands for an incarnation: the bytes may be left whatever becomes of the target. */
const IN_ANY_CASE = "in any case";

/** The incarnation of the target that leaves old bytes if it exits; undefined: none does. */
export function dirtOf({ pendingOp: op, adopted }: MayLeaveDirt): string | undefined {
  if (op === undefined || (op.op !== "delete" && op.op !== "inflate")) return undefined;
  return op.failed || (adopted && op.op === "delete") ? IN_ANY_CASE : op.run;
}

export function isDirt(dirt: string | undefined, incarnation: string | undefined): boolean {
  return dirt !== undefined && incarnation !== undefined && dirt !== incarnation;
}

/**
 * Whether the copy of a cluster on write may have been cut off: SPDK writes it before the metadata that says
 * whose it is (docs/architecture.md#r7-tenants-and-free-space).
 */
export function mayHaveCutCopy(
  disk: { readonly copyingRun: string | undefined } | undefined,
  incarnation: string | undefined,
): boolean {
  return isDirt(disk?.copyingRun, incarnation);
}

/** The row of a volume or a snapshot. */
export type MayLeaveDirt = { readonly pendingOp: PendingOp | undefined; readonly adopted: boolean };
