// ResolveOutcome: an operator says that changes whose answers were lost are not running any more. Their
// lanes open, and what they changed is read again.
import type { Logger } from "pino";
import { Refusal } from "../model/errors.ts";
import type { Agent } from "./agent.ts";
import type { StorageNodeHandlers } from "./call.ts";
import { tellOf } from "./events.ts";
import { requireRows } from "./preconditions.ts";
import * as requests from "./requests.ts";

export function outcomeHandlers(
  agent: Agent,
  log: Logger,
): Pick<StorageNodeHandlers, "resolveOutcome"> {
  return {
    async resolveOutcome(request, { actor, traceparent }) {
      const { id, reason } = requests.resolveOutcome(request);
      requireRows(agent);
      const objectKind = kindOf(agent, id);
      if (objectKind === undefined) {
        throw new Refusal("NOT_FOUND", `no volume, snapshot or disk ${id} is on this node`);
      }
      const methods = agent.resolveOutcome(id);
      log.warn({ id, reason, actor, methods }, "unknown outcome resolved by an operator");
      const event = { objectKind, objectId: id, reason: "OUTCOME_RESOLVED" } as const;
      const after = methods.join(", ");
      tellOf(agent, { actor, traceparent }, { ...event, after, message: reason });
      return { requests: [...methods] };
    },
  };
}

function kindOf({ rows }: Agent, id: string): "lvol" | "snapshot" | "disk" | undefined {
  if (rows.lvol(id) !== undefined) return "lvol";
  if (rows.snapshots.get(id) !== undefined) return "snapshot";
  return rows.disk(id) === undefined ? undefined : "disk";
}
