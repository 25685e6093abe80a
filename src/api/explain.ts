// Explain: why an object is not in its desired state, from the rows in memory and what was observed
// on the target. It also works while the database is unreachable, and never changes anything.
import type { ExplainResponse } from "../gen/storagenode/v1/storage_node.ts";
import { CheckAnswer } from "../gen/storagenode/v1/node.ts";
import { Refusal } from "../model/errors.ts";
import type { Explanation } from "../explain/explanation.ts";
import { explainDisk } from "../explain/disk.ts";
import { explainLvol } from "../explain/lvol.ts";
import { explainSnapshot } from "../explain/snapshot.ts";
import type { Agent } from "./agent.ts";
import type { StorageNodeHandlers } from "./call.ts";
import * as requests from "./requests.ts";

export function explainHandlers(agent: Agent): Pick<StorageNodeHandlers, "explain"> {
  return {
    async explain(request) {
      const { kind, id } = requests.explain(request);
      requireRowsRead(agent);
      return explanationMessage(await explained(agent, kind, id));
    },
  };
}

async function explained(
  agent: Agent,
  kind: requests.Explained["kind"],
  id: string,
): Promise<Explanation> {
  switch (kind) {
    case "lvol":
      return await explainedLvol(agent, id);
    case "snapshot":
      return explainedSnapshot(agent, id);
    case "disk":
      return await explainedDisk(agent, id);
  }
}

function explainedSnapshot(agent: Agent, id: string): Explanation {
  const row = agent.rows.snapshots.get(id);
  if (row !== undefined) return explainSnapshot(agent.snapshotFacts(row));
  const hint = agent.rows.lvol(id) === undefined ? "" : "; a volume has that id";
  throw notFound(agent, `snapshot ${id} is not on this node${hint}`);
}

async function explainedLvol(agent: Agent, id: string): Promise<Explanation> {
  const row = agent.rows.lvol(id);
  if (row !== undefined) return explainLvol(await agent.lvolFacts(row));
  const isSnapshot = agent.rows.snapshots.get(id) !== undefined;
  const kind = isSnapshot ? "snapshot" : agent.rows.disk(id) === undefined ? undefined : "disk";
  const hint = kind === undefined ? "" : `; a ${kind} has that id`;
  throw notFound(agent, `volume ${id} is not on this node${hint}`);
}

async function explainedDisk(agent: Agent, id: string): Promise<Explanation> {
  const row = agent.rows.disk(id);
  if (row !== undefined) return explainDisk(await agent.diskFacts(row));
  const hint = agent.rows.lvol(id) === undefined ? "" : "; a volume has that id";
  throw notFound(agent, `disk ${id} is not on this node${hint}`);
}

/** Mentions a hold, because a restored database that lost rows is then the most likely cause. */
function notFound(agent: Agent, message: string): Refusal {
  const hold = agent.hold();
  if (hold === undefined) return new Refusal("NOT_FOUND", message);
  return new Refusal(
    "NOT_FOUND",
    `${message}, but the node is on hold: ${hold}; run "storage-node rebuild" to see what ` +
      `the disks contain`,
  );
}

/** As requireRows, but the message names the reason and the cure. */
function requireRowsRead(agent: Agent): void {
  if (agent.rows.node !== undefined) return;
  // Database and writes come first: the others follow from them.
  const first = agent.components().find(({ ok, needed }) => needed && !ok);
  const why =
    first === undefined
      ? ""
      : `: ${first.reason} (since ${first.since.toISOString()}); ${first.cure}`;
  throw new Refusal("DATABASE_DOWN", `the agent has not read its rows yet${why}`, {
    retryAfterMs: 1_000,
  });
}

const ANSWER = {
  YES: CheckAnswer.CHECK_ANSWER_YES,
  NO: CheckAnswer.CHECK_ANSWER_NO,
  UNKNOWN: CheckAnswer.CHECK_ANSWER_UNKNOWN,
} as const;

function explanationMessage({
  summary,
  checks,
  nextStep,
  lastError,
  nextTryTime,
}: Explanation): ExplainResponse {
  return {
    checks: checks.map((check) => ({ ...check, answer: ANSWER[check.answer] })),
    nextStep,
    lastError: lastError ?? "",
    summary,
    nextTryTime,
  };
}
