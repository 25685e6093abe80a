// Cordon and Uncordon: whether the node, or one disk, takes new volumes. What is there is served as before.
import type { Agent } from "./agent.ts";
import type { CallContext, StorageNodeHandlers } from "./call.ts";
import * as requests from "./node-requests.ts";

export function cordonHandlers(agent: Agent): Pick<StorageNodeHandlers, "cordon" | "uncordon"> {
  const change = async (
    wanted: {
      readonly diskId: string | undefined;
      readonly cordoned: boolean;
      readonly reason: string;
    },
    { actor, traceparent }: CallContext,
  ) => {
    const { diskId, cordoned, reason } = wanted;
    const decision = await agent.writer.mutate({
      kind: "cordon",
      of: diskId === undefined ? "node" : "disk",
      id: diskId ?? agent.nodeId,
      cordoned,
      reason,
      actor,
      traceparent,
    });
    return { changed: decision.kind === "cordon" && decision.changed };
  };
  return {
    cordon: (request, context) => change({ ...requests.cordon(request), cordoned: true }, context),
    uncordon: (request, context) =>
      change({ ...requests.uncordon(request), cordoned: false, reason: "" }, context),
  };
}
