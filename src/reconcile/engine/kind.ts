// What the engine has to know of a kind of object, and what it tells of its loops.
import type { StepFailures } from "../../model/failure.ts";
import type { IntentTrace } from "./pass-trace.ts";

/**
 * The outcome of a step. `retry`: planned again after a back-off. `fatal`: only a new intent helps.
 */
export type StepResult =
  | {
      readonly kind: "ok";
      /** Parts that failed although the step as a whole did what the next one needs. */
      readonly failedParts?: readonly FailedPart[];
    }
  | {
      readonly kind: "retry";
      readonly message: string;
      /** Why there is no answer; undefined: target or kernel answered. */
      readonly unanswered?: "not-sent" | "lost";
    }
  | { readonly kind: "fatal"; readonly message: string };

/** A part that is tried again as a step of its own, of the named kind. */
export type FailedPart = {
  readonly step: string;
  readonly part: string;
  readonly message: string;
};

/** A failure of a step, for whoever tells of it. */
export type FailedStep = {
  readonly kind: "retry" | "fatal";
  readonly id: string;
  /** `LOOP/STEP PART`. */
  readonly step: string;
  /** The text of its failure before; empty: it did not fail when it was tried last. */
  readonly before: string;
  readonly message: string;
  /** It was not sent, or its answer was lost. */
  readonly unanswered: boolean;
  readonly trace_id?: string;
};

export type Moment = {
  readonly now: Date;
  readonly inFlight: boolean;
  /** Failures of the object's steps, by `LOOP/STEP PART`. */
  readonly failures: StepFailures;
};

export type Loop<View, Step> = {
  readonly name: string;
  /** One step, or steps on different parts of the object (`Kind.part`), which may run together. */
  readonly plan: (view: View) => Step | readonly Step[] | undefined;
};

/** One kind of object: how it is viewed, planned, acted on and recorded. */
export type Kind<View, Step extends { readonly kind: string }> = {
  readonly name: string;
  readonly loops: readonly Loop<View, Step>[];
  /** Whether an object is planned before others; without it, objects are planned in wake order. */
  readonly first?: (id: string) => boolean;
  /** Undefined when the object has no row any more. */
  readonly view: (id: string, moment: Moment) => View | undefined;
  /** The trace that the object's intent was committed in, and whether the intent is still open. */
  readonly intent: (view: View) => IntentTrace;
  /** Whether the write mode permits the act now. When it changes, all objects are planned again. */
  readonly permits: (act: Step["kind"] | "record") => boolean;
  /** Whether a step changes something, as opposed to only reading. */
  readonly changes: (act: Step["kind"]) => boolean;
  /** The name of the change that a step sends to the target; undefined: it sends none. */
  readonly sends: (act: Step["kind"]) => string | undefined;
  /**
   * Whether an earlier step of the current intent ended as `fatal`: steps that read are still
   * taken, steps that change something are not until a new intent is committed.
   */
  readonly gaveUp: (view: View) => boolean;
  /**
   * Which part of the object a step works on, if it may run beside steps of its loop on other parts;
   * each part has a back-off of its own. Undefined: the step runs alone in its loop.
   */
  readonly part: (step: Step) => string | undefined;
  /** The failures in the object's row, as recorded by this agent or by an earlier one. */
  readonly recordedFailures: (view: View) => StepFailures;
  /** When the object is to be planned again although nothing wakes it; undefined: never. */
  readonly wakeTime: (view: View) => Date | undefined;
  /**
   * Whether the failures of a loop's steps are forgotten where it does not plan them any more: the object
   * works, or what it waits for now is something else.
   */
  readonly outlives: (view: View, loop: string) => boolean;
  /** Performs a step in its lanes. An error answer of target or kernel is a result, not a throw. */
  readonly perform: (view: View, step: Step) => Promise<StepResult>;
  /**
   * Records status that differs from the row, if any. Resolves after the commit: was it written?
   */
  readonly record: (view: View) => Promise<boolean> | undefined;
  /** Is told of each failure of a step, before it is counted. */
  readonly failed?: (failure: FailedStep) => void;
  /** Records that the object gives up (`gaveUp`) until a new intent. */
  readonly recordFatal: (view: View, message: string) => Promise<boolean>;
};

/** Why a pass ran: the loop started, an object was woken, or an interval passed. */
export type PassReason = "start" | "wake" | "period";

export type LoopStatus = {
  readonly name: string;
  readonly passes: number;
  readonly lastReason: PassReason | undefined;
  readonly steps: number;
  readonly lastPassTime: Date | undefined;
  readonly lastDurationMs: number;
  readonly lastError: string | undefined;
};

export function unansweredOf(result: StepResult): "not-sent" | "lost" | undefined {
  return result.kind === "retry" ? result.unanswered : undefined;
}

/** `LOOP/STEP PART`: of the back-off. */
export function keyOf(loop: string, step: string, part: string | undefined): string {
  return part === undefined ? `${loop}/${step}` : `${loop}/${step} ${part}`;
}

export function listOf<T>(plan: T | readonly T[]): readonly T[] {
  return isList(plan) ? plan : [plan];
}

function isList<T>(plan: T | readonly T[]): plan is readonly T[] {
  return Array.isArray(plan);
}
