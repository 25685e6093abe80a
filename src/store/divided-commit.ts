// Commits parts in their order. One whose data PostgreSQL refuses is divided until only the culprit is left,
// which alone is refused.
import type { Logger } from "pino";
import { COMMIT_RETRY_LAST_MS } from "../limits.ts";
import { settle } from "./status-queue.ts";
import * as intents from "./waiting-intents.ts";
import { dataRefusal, halves, idsOf, isDataError, workSize, type Work } from "./work.ts";

export type DividedCommit = {
  /** One transaction. */
  readonly commit: (part: Work) => Promise<void>;
  readonly log: Logger;
  /** Data was refused that admission should have kept out. */
  readonly onFaultOfAgent: () => void;
};

/** Removes from parts what was committed or refused. Throws what commit threw, if that is no refusal of data. */
export async function commitDivided(parts: Work[], options: DividedCommit): Promise<void> {
  for (let part = parts[0]; part !== undefined; part = parts[0]) {
    const size = workSize(part);
    try {
      await options.commit(part);
      parts.shift();
    } catch (error) {
      if (!isDataError(error) || size === 0) throw error;
      parts.splice(0, 1, ...(size > 1 ? halves(part) : []));
      if (size === 1) refuseData(part, error, options);
    }
  }
}

function refuseData(culprit: Work, error: unknown, { log, onFaultOfAgent }: DividedCommit): void {
  log.error({ err: error, ...idsOf(culprit) }, "the database refuses what is written");
  const refusal = dataRefusal(error);
  if (refusal.reason === "INTERNAL") onFaultOfAgent();
  intents.refuse(culprit.intents, refusal);
  // Its loop observes it again and comes back with the same: not at once.
  setTimeout(() => settle(culprit), COMMIT_RETRY_LAST_MS).unref();
}
