// LocateDisk: the LED of a disk's slot. No row keeps it, so it works without the database, too.
import type { LocateDiskRequest } from "../gen/storagenode/v1/storage_node.ts";
import { Refusal } from "../model/errors.ts";
import { eventOf, traceIdOf } from "../model/event.ts";
import type { Agent } from "./agent.ts";
import type { StorageNodeHandlers } from "./call.ts";
import { diskMessageOf } from "./disks.ts";
import { requireRows } from "./preconditions.ts";
import * as requests from "./requests.ts";

export function locateHandlers(agent: Agent): Pick<StorageNodeHandlers, "locateDisk"> {
  return {
    async locateDisk({ diskId, on }: LocateDiskRequest, { actor, traceparent }) {
      const id = requests.diskId(diskId);
      requireRows(agent);
      const row = agent.rows.disk(id);
      if (row === undefined) throw new Refusal("NOT_FOUND", `disk ${id} is not on this node`);
      const wasOn = agent.diskReadiness(row).locate;
      const { kind, address } = await agent.locateDisk(row, on);
      if (wasOn !== on) {
        const text = (is: boolean | undefined) => (is === true ? "ON" : "OFF");
        agent.events.add(() => [
          eventOf({
            objectKind: "disk",
            objectId: id,
            reason: "LOCATE_SWITCHED",
            before: text(wasOn),
            after: text(on),
            message: `${kind} at ${address}`,
            actor,
            traceId: traceIdOf(traceparent),
          }),
        ]);
      }
      return { disk: diskMessageOf(agent, row), kind, address, on };
    },
  };
}
