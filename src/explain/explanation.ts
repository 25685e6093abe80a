// The parts of an explanation (checks, causes, the next step) and the causes that concern the whole
// node. Pure functions of facts that were gathered before.
//
// It never guesses: what was not observed in this incarnation of the target is UNKNOWN.

import type { StepFailures } from "../model/failure.ts";
import { componentCure, SILENT_TARGET_CURE } from "./component-cures.ts";
import type { UnknownOutcome } from "../model/unknown-outcome.ts";

/** Questions are worded so that YES means that all is well. */
export type Answer = "YES" | "NO" | "UNKNOWN";

export type Check = {
  readonly question: string;
  readonly answer: Answer;
  /** What was observed, with names and numbers. */
  readonly evidence: string;
  /** What an operator does about it; empty when the answer is YES. */
  readonly remedy: string;
};

export type Explanation = {
  /** The state, the cause and its cure in one sentence. */
  readonly summary: string;
  readonly checks: readonly Check[];
  readonly nextStep: string;
  readonly lastError: string | undefined;
  /** The end of a back-off; undefined when there is none. */
  readonly nextTryTime: Date | undefined;
};

/** Why an object is not as wanted, what an operator does about it, and what the loops do. */
export type Cause = {
  readonly cause: string;
  readonly cure: string;
  /** Why the loops plan no step, as text that follows "nothing: ". */
  readonly waits: string;
};

/** The step that a loop plans for the object now. */
export type NextStep = {
  readonly loop: string;
  readonly words: string;
  /** Whether the present write mode permits the step. */
  readonly allowed: boolean;
};

export type PartFacts = { readonly ok: boolean; readonly reason: string; readonly since: Date };

/** Facts that concern every object of the node. */
export type NodeFacts = {
  readonly now: Date;
  readonly hold: string | undefined;
  readonly database: PartFacts;
  readonly lock: Pick<PartFacts, "ok" | "reason">;
  readonly lease: PartFacts;
  /** Whether what callers ask for can be committed. */
  readonly writes: PartFacts;
  readonly kernel: PartFacts;
  readonly target: PartFacts & {
    readonly socket: string;
    /** The socket answers, whether or not the target is identified and owned by this node. */
    readonly answers: boolean;
    /** The target accepted a request and had not answered it when the facts were gathered. */
    readonly unresponsive: boolean;
    /** Number of lvols without a row in lvstores of this fleet. */
    readonly orphanLvols: number;
  };
  /** The IP addresses of all interfaces of this machine. */
  readonly ownAddresses: readonly string[];
  readonly writeMode: "read-only" | "restore-only" | "read-write";
};

/** Why this agent makes no changes, or only some; undefined if it makes all. */
export function nodeCause(node: NodeFacts): Cause | undefined {
  const { hold, database, lock, lease, writes } = node;
  if (hold !== undefined) {
    return {
      cause: `the node is on hold and changes nothing: ${hold}`,
      cure: componentCure("hold", hold),
      waits: "waits for an operator to end the hold",
    };
  }
  if (!database.ok) {
    const what = database.reason.startsWith("no answer since")
      ? `the database gives ${database.reason}`
      : `${database.reason} (since ${instant(database.since)})`;
    return {
      cause:
        `${what}; meanwhile exports stay and are ` +
        `restored if the target restarts, reads answer the last known rows, changes are refused`,
      cure: componentCure("database", database.reason),
      waits: "waits for the database",
    };
  }
  if (!lock.ok) {
    return {
      cause: `this agent makes no changes: ${lock.reason}`,
      cure: `ask the agent that has the lock, or stop it: this agent then takes the lock by itself`,
      waits: "waits for the local lock",
    };
  }
  if (!lease.ok) {
    return {
      cause: `this agent does not lead the node since ${instant(lease.since)}: ${lease.reason}`,
      cure: componentCure("lease", lease.reason),
      waits: "waits for the lease",
    };
  }
  if (writes.ok) return undefined;
  return {
    cause: `${writes.reason} (since ${instant(writes.since)})`,
    cure: componentCure("writes", writes.reason),
    waits: "waits for a commit",
  };
}

/** Why the target cannot be observed; undefined while it is connected and identified. */
export function targetCause(node: NodeFacts, connected: boolean): Cause | undefined {
  if (connected) return undefined;
  const { target } = node;
  if (target.unresponsive) return unresponsiveTargetCause(node);
  const { socket, since, reason, answers } = target;
  const waits = "waits for the target";
  const cause = answers
    ? `the SPDK target at ${socket} answers but is not used: ${reason}`
    : `the SPDK target does not answer at ${socket} since ${instant(since)}: ${reason}`;
  return { cause, cure: componentCure("target", reason), waits };
}

/** The target is connected and does not answer: observations may be out of date. */
export function unresponsiveTargetCause({ target }: NodeFacts): Cause | undefined {
  if (!target.unresponsive) return undefined;
  const silence = target.ok ? "" : ` since ${instant(target.since)}`;
  return {
    cause: `the SPDK target at ${target.socket} takes requests and does not answer them${silence}`,
    cure: SILENT_TARGET_CURE,
    waits: "waits for the target",
  };
}

/** A step of the object was in flight when the target died, so that it waits. */
export function suspectCause(failures: StepFailures): Cause | undefined {
  const [worst] = Object.values(failures)
    .filter(({ crashTime }) => crashTime !== undefined)
    .toSorted((a, b) => b.attempt - a.attempt);
  if (worst === undefined) return undefined;
  return {
    cause: `${worst.message}; next try at ${instant(worst.nextTryTime)} or later`,
    cure:
      "see the target's log and core file for why it died, and keep this object from it (Delete) if " +
      "each try kills it: all other exports are interrupted then",
    waits: "waits until all others are done, and longer after each crash",
  };
}

/** The answer to a change of the object was lost. */
export function outcomeCause(id: string, unknown: UnknownOutcome | undefined): Cause | undefined {
  if (unknown === undefined) return undefined;
  return {
    cause: `${unknown.method} was sent and not answered since ${instant(unknown.since)}`,
    cure:
      `see whether the target still works on it (its log); if you know that it does not, call ` +
      `ResolveOutcome {"objectId": "${id}", "reason": "WHY"}; a restart of the target ends it, too`,
    waits:
      "waits for the answer, a later one of the same connection, a restart of the target, or the grace " +
      "after a lost connection",
  };
}

export type Planned = {
  readonly steps: readonly NextStep[];
  readonly inFlight: boolean;
  /** Why the loops plan no step, as text that follows "nothing: ". */
  readonly idle: string;
  readonly nextTryTime: Date | undefined;
};

/** The planned steps as text, and why they are not taken now. */
export function nextStepText(
  { steps, inFlight, idle, nextTryTime }: Planned,
  node: NodeFacts,
): string {
  if (steps.length === 0) return inFlight ? "a step is under way" : `nothing: ${idle}`;
  const words = steps.map(({ loop, words, allowed }) =>
    allowed ? `${loop}: ${words}` : `${loop}: ${words} (not now: ${notNow(node)})`,
  );
  const due = nextTryTime === undefined ? "" : `; not before ${instant(nextTryTime)}`;
  return `${inFlight ? "under way: " : ""}${words.join("; ")}${due}`;
}

function notNow({ hold, database, writeMode }: NodeFacts): string {
  if (hold !== undefined) return "the node is on hold";
  if (writeMode === "restore-only")
    return "the database cannot be reached; only exports are restored";
  return database.ok ? "this agent does not lead the node" : "the database cannot be reached";
}

/** The remedy of what the loops correct by themselves. */
export const WAIT = "wait: the agent corrects it in its next step";

/** The time, or undefined when it has passed. */
export function ifFuture(time: Date | undefined, now: Date): Date | undefined {
  return time !== undefined && time > now ? time : undefined;
}

/** ISO 8601 in UTC, in whole seconds. */
export function instant(time: Date): string {
  return `${time.toISOString().slice(0, 19)}Z`;
}

/** The last failure of an object, from its row or its loops. */
export type Failing = {
  readonly lastError: string | undefined;
  readonly attempt: number;
  readonly nextTryTime: Date | undefined;
};

/** The last of the six questions, the same for volumes and disks. */
export function errorCheck(
  { lastError, attempt, nextTryTime }: Failing,
  node: NodeFacts,
  first: Cause | undefined,
): Check {
  const question = "Do the loops work on it without errors?";
  if (lastError === undefined) {
    return { question, answer: "YES", evidence: "no error since it was last UP", remedy: "" };
  }
  const due = ifFuture(nextTryTime, node.now);
  const again = due === undefined ? "" : `; tried again at ${instant(due)}`;
  const times = attempt > 1 ? ` (${attempt} times)` : "";
  return {
    question,
    answer: "NO",
    evidence: `${lastError}${times}${again}`,
    remedy: first?.cure ?? "the agent tries again by itself; see its log for details",
  };
}
