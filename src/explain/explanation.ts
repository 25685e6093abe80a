// What an explanation is made of: questions with answers, what stands in the way, what comes next. Pure
// functions of facts that were gathered before. What was not seen in this run of the target is UNKNOWN:
// nothing here guesses.

/** YES is as it should be, whatever the question. */
export type Answer = "YES" | "NO" | "UNKNOWN";

export type Check = {
  readonly question: string;
  readonly answer: Answer;
  /** What was seen, with names and numbers. */
  readonly evidence: string;
  /** What to do about it; empty when YES. */
  readonly remedy: string;
};

export type Explanation = {
  /** The cause and its cure in one sentence. */
  readonly summary: string;
  readonly checks: readonly Check[];
  readonly nextStep: string;
  readonly lastError: string | undefined;
  /** Undefined: nothing waits for a time to come. */
  readonly nextTryTime: Date | undefined;
};

/** Something that stands in the way: what it is, what an operator does about it, what the loops do. */
export type Cause = {
  readonly cause: string;
  readonly cure: string;
  /** What the loops do about it by themselves, after "nothing: ". */
  readonly waits: string;
};

/** What a loop would do with the object now. */
export type NextStep = {
  readonly loop: string;
  readonly words: string;
  /** Whether this agent may do that at this moment. */
  readonly allowed: boolean;
};

export type PartFacts = { readonly ok: boolean; readonly reason: string; readonly since: Date };

/** What concerns every object of the node. */
export type NodeFacts = {
  readonly now: Date;
  readonly hold: string | undefined;
  readonly database: PartFacts;
  readonly lock: Pick<PartFacts, "ok" | "reason">;
  readonly lease: PartFacts;
  readonly kernel: PartFacts;
  readonly target: PartFacts & {
    readonly socket: string;
    /** Somebody answers on the socket, be it ours to use or not. */
    readonly answers: boolean;
    /** It took a request just now, and had not answered when the explanation was made. */
    readonly unresponsive: boolean;
    /** Lvols in stores of this fleet that no row has. */
    readonly orphanLvols: number;
  };
  /** Of every interface of this machine. */
  readonly ownAddresses: readonly string[];
  readonly writeMode: "read-only" | "restore-only" | "read-write";
};

/** Why this agent changes nothing, or not all that is wanted; undefined if it does. */
export function nodeCause(node: NodeFacts): Cause | undefined {
  const { hold, database, lock, lease } = node;
  if (hold !== undefined) {
    return {
      cause: `the node is on hold and changes nothing: ${hold}`,
      cure:
        `give the newer database back, or run "storage-node rebuild" to see which rows the disks ` +
        `give back, and "storage-node rebuild --apply" to write them and end the hold`,
      waits: "waits for an operator to end the hold",
    };
  }
  if (!database.ok) {
    return {
      cause:
        `${database.reason} (since ${instant(database.since)}); meanwhile exports stay and are ` +
        `restored if the target restarts, reads answer what was last known, changes are refused`,
      cure:
        `start PostgreSQL or its network again, the agent goes on by itself; if it moved, correct ` +
        `DATABASE_URL and restart the agent`,
      waits: "waits for the database",
    };
  }
  if (!lock.ok) {
    return {
      cause: `this agent changes nothing: ${lock.reason}`,
      cure: `ask the agent that has the lock, or stop it: this one then goes on by itself`,
      waits: "waits for the local lock",
    };
  }
  if (lease.ok) return undefined;
  return {
    cause: `this agent does not lead the node since ${instant(lease.since)}: ${lease.reason}`,
    cure: `ask the agent that has the lease, or stop it: this one then goes on by itself`,
    waits: "waits for the lease",
  };
}

/** Why nothing is seen of the target; undefined while it is connected and known. */
export function targetCause({ target }: NodeFacts, connected: boolean): Cause | undefined {
  if (connected) return undefined;
  const { socket, since, reason, answers } = target;
  const waits = "waits for the target";
  if (answers) {
    return {
      cause: `the SPDK target at ${socket} answers but is not worked with: ${reason}`,
      cure: reason.includes("belongs to")
        ? `give this node a target of its own (STORAGE_NODE_SPDK_SOCKET) and restart the agent`
        : `wait if it was started just now; else see the agent's log, and whether the target is ` +
          `SPDK 24.01 or newer`,
      waits,
    };
  }
  return {
    cause: `the SPDK target does not answer at ${socket} since ${instant(since)}: ${reason}`,
    cure:
      `start the target: disks and exports then come back by themselves; if it listens elsewhere, ` +
      `correct STORAGE_NODE_SPDK_SOCKET and restart the agent`,
    waits,
  };
}

/** A target that is connected and hangs: what was seen of it may no longer be so. */
export function unresponsiveTargetCause({ target }: NodeFacts): Cause | undefined {
  if (!target.unresponsive) return undefined;
  return {
    cause: `the SPDK target at ${target.socket} takes requests and does not answer them`,
    cure:
      `see whether it hangs or is stopped (its log, top): once it answers, or is started anew, ` +
      `all goes on by itself`,
    waits: "waits for the target",
  };
}

export type Planned = {
  readonly steps: readonly NextStep[];
  readonly inFlight: boolean;
  /** Why there is no step. */
  readonly idle: string;
  readonly nextTryTime: Date | undefined;
};

/** The steps in words, and why they are not taken now. */
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
  if (writeMode === "restore-only") return "the database is away; only exports are restored";
  return database.ok ? "this agent does not lead the node" : "the database is away";
}

/** The remedy of what the loops put right by themselves. */
export const WAIT = "wait: the next step sees to it";

/** A time still to come; one that has passed waits for nothing. */
export function ifFuture(time: Date | undefined, now: Date): Date | undefined {
  return time !== undefined && time > now ? time : undefined;
}

/** To the second: more says nothing to people. */
export function instant(time: Date): string {
  return `${time.toISOString().slice(0, 19)}Z`;
}

/** What an object's row and its loops say of the last failure. */
export type Failing = {
  readonly lastError: string | undefined;
  readonly attempt: number;
  readonly nextTryTime: Date | undefined;
};

/** The last of the six questions, of volumes and disks alike. */
export function errorCheck(
  { lastError, attempt, nextTryTime }: Failing,
  node: NodeFacts,
  first: Cause | undefined,
): Check {
  const question = "Do the loops work on it without errors?";
  if (lastError === undefined) {
    return { question, answer: "YES", evidence: "no error since it was last well", remedy: "" };
  }
  const due = ifFuture(nextTryTime, node.now);
  const again = due === undefined ? "" : `; tried again at ${instant(due)}`;
  const times = attempt > 1 ? ` (${attempt} times)` : "";
  return {
    question,
    answer: "NO",
    evidence: `${lastError}${times}${again}`,
    remedy: first?.cure ?? "the agent tries again by itself; its log has the whole story",
  };
}
