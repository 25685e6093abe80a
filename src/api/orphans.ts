// ListOrphans, AdoptOrphan and PurgeOrphan. An orphan has no row: a purge is no intent that a loop acts on, it is
// carried out within the call, and a call that ends before is repeated.
import { Orphan as OrphanMessage } from "../gen/storagenode/v1/node.ts";
import type { Orphan } from "../model/orphan.ts";
import type { Agent } from "./agent.ts";
import type { StorageNodeHandlers } from "./call.ts";
import { tellOf } from "./events.ts";
import { messageOf } from "./lvols.ts";
import { requireRows } from "./preconditions.ts";
import { page } from "./page.ts";
import * as requests from "./requests.ts";

export function orphanHandlers(
  agent: Agent,
): Pick<StorageNodeHandlers, "listOrphans" | "adoptOrphan" | "purgeOrphan"> {
  return {
    async listOrphans(request) {
      const wanted = requests.pagingByName(request);
      requireRows(agent);
      const found = (await agent.orphans.list()).map((orphan) => ({ id: keyOf(orphan), orphan }));
      const messages = (rows: Readonly<typeof found>) =>
        rows.map(({ orphan }) => orphanMessage(orphan));
      const { items, nextPageToken } = page(found, wanted, { messages, type: OrphanMessage });
      return { orphans: items, nextPageToken };
    },

    async adoptOrphan(request, { actor, traceparent }) {
      const adoption = requests.adoption(request);
      requireRows(agent);
      const row = await agent.orphans.adopt({ ...adoption, actor, traceparent });
      return { lvol: messageOf(agent, row) };
    },

    async purgeOrphan(request, { signal, actor, traceparent }) {
      const purge = requests.purge(request);
      requireRows(agent);
      const done = await agent.orphans.purge({ ...purge, actor }, signal);
      const object = { objectKind: "node", objectId: agent.nodeId } as const;
      const { kind, name, reason: message } = purge;
      const uuid = purge.kind === "lvol" ? ` (${purge.uuid})` : "";
      const after = `${kind} ${name}${uuid} ${done ? "is gone" : "is not gone yet"}`;
      const call = { actor, traceparent };
      tellOf(agent, call, { ...object, reason: "ORPHAN_PURGED", after, message });
      return { done };
    },
  };
}

/** Lvols of two stores may have the same name. */
function keyOf({ name, uuid = "" }: Orphan): string {
  return `${name}\0${uuid}`;
}

function orphanMessage(orphan: Orphan): OrphanMessage {
  return {
    ...orphan,
    uuid: orphan.uuid ?? "",
    diskId: orphan.diskId ?? "",
    allocatedBytes: orphan.allocatedBytes ?? 0n,
    nqn: orphan.nqn ?? "",
    likelyOwner: orphan.likelyOwner ?? "",
  };
}
