// Waits: a change that is wanted is not made, although nothing has failed. One wait is three things: why
// the loops plan no step, what the conditions of the object say, and the cause that Explain names. Pure.
import type { Condition } from "./condition.ts";

export const WAIT_REASONS = [
  "FREE_SPACE_NOT_ZEROED",
  "DISCARD_NOT_ZEROING",
  /** A clone needs its snapshot, which is not taken yet, or is lost. */
  "SNAPSHOT_NOT_TAKEN",
  /** A snapshot needs the lvol of its volume, which is not made yet. */
  "SOURCE_NOT_MADE",
  /** A snapshot of the volume was asked for before its deletion, and is taken first. */
  "SNAPSHOT_DUE",
  /** A change that an earlier agent has sent may still be running: of the object, or of its clone family. */
  "EARLIER_CHANGE",
  "FAMILY_CHANGING",
  /** Its hosts could be shown old bytes: it is made reachable once its disk is zeroed, or after a time. */
  "EXPORT_HELD",
  /** Hosts that were connected before the target restarted may be about to come back. */
  "HOSTS_MAY_RETURN",
] as const;

export type WaitReason = (typeof WAIT_REASONS)[number];

export type Wait = {
  readonly reason: WaitReason;
  /** The loop that plans no step meanwhile. */
  readonly loop: string;
  readonly cause: string;
  /** What an operator does about it. */
  readonly cure: string;
  /** As text that follows "nothing: ". */
  readonly waits: string;
};

/** For the message of a condition. */
export function waitText({ cause, cure }: Pick<Wait, "cause" | "cure">): string {
  return `${cause}; ${cure}`;
}

const OF_DISK: readonly WaitReason[] = ["FREE_SPACE_NOT_ZEROED", "DISCARD_NOT_ZEROING"];

/** Whether it lies in the disk, so that errors of earlier attempts say nothing any more. */
export function isOfDisk({ reason }: Pick<Wait, "reason">): boolean {
  return OF_DISK.includes(reason);
}

/** The condition Waiting of an object, while it holds. */
export function waitConditions(wait: Wait | undefined): readonly Condition<"Waiting">[] {
  if (wait === undefined) return [];
  return [{ type: "Waiting", status: "TRUE", reason: wait.reason, message: waitText(wait) }];
}

/** The wait for a request that may still be running, of the object itself or of its clone family. */
export function earlierChange(
  loop: string,
  until: Date,
  { ofFamily = false }: { readonly ofFamily?: boolean } = {},
): Wait {
  const whose = ofFamily ? "its clone family" : "it";
  return {
    reason: ofFamily ? "FAMILY_CHANGING" : "EARLIER_CHANGE",
    loop,
    cause:
      `a change of ${whose} that an earlier agent has sent may still be running, ` +
      `until ${until.toISOString()} at the latest`,
    cure: "wait",
    waits: "waits until a change that was sent earlier can no longer be running",
  };
}
