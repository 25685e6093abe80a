// What went wrong with a step of an object, by step and part. Each has a back-off of its own: it
// grows with the failures of that step and part, and no success of another one resets it.

export type StepFailure = {
  /** Failures in a row, at least 1. */
  readonly attempt: number;
  readonly message: string;
  readonly nextTryTime: Date;
  /**
   * Nothing was refused: the step was not sent, or its answer was lost. Undefined: target or kernel
   * answered.
   */
  readonly unanswered?: true | undefined;
  /**
   * The step was in flight when the target died at that time, and has not been answered since: `attempt`
   * counts such deaths. Steps with the same time are suspects of one crash.
   */
  readonly crashTime?: Date | undefined;
};

/**
 * By key: `LOOP/STEP`, and behind a blank the part, where a step has parts that fail on their own:
 * `export/allow-host nqn.2014-08.org.example:a`.
 */
export type StepFailures = Readonly<Record<string, StepFailure>>;

/** The failure of the step that was tried most often; undefined when none fails. */
export function worstFailure(failures: StepFailures): StepFailure | undefined {
  return Object.values(failures).toSorted((a, b) => b.attempt - a.attempt)[0];
}

/** The target, or the kernel, answered the step with an error. */
export function wasRefused(failures: StepFailures, key: string): boolean {
  const failure = failures[key];
  return (
    failure !== undefined && failure.unanswered === undefined && failure.crashTime === undefined
  );
}

export function sameFailures(a: StepFailures, b: StepFailures): boolean {
  const keys = Object.keys(a);
  return (
    keys.length === Object.keys(b).length &&
    keys.every((key) => {
      const other = b[key];
      const one = a[key];
      return (
        other?.attempt === one?.attempt &&
        other?.message === one?.message &&
        other?.unanswered === one?.unanswered &&
        other?.crashTime?.getTime() === one?.crashTime?.getTime()
      );
    })
  );
}
