// ReleaseDisk.
import { diskState, type DiskRow } from "../model/disk.ts";
import { Refusal } from "../model/errors.ts";
import { diskMessageOf } from "./disks.ts";
import * as requests from "./disk-requests.ts";
import type { Agent } from "./agent.ts";
import type { StorageNodeHandlers } from "./call.ts";
import { waitForDisk } from "./wait.ts";

export function releaseHandlers(agent: Agent): Pick<StorageNodeHandlers, "releaseDisk"> {
  return {
    async releaseDisk(request, { signal, actor, traceparent }) {
      const { id, waitMs, ...asked } = requests.releaseDisk(request);
      const row = agent.rows.disk(id);
      const others = row === undefined || asked.force ? undefined : await othersOn(agent, row);
      const by = { actor, traceparent };
      const decision = await agent.writer.mutate({
        kind: "releaseDisk",
        id,
        ...asked,
        others,
        ...by,
      });
      if (decision.kind !== "disk") return { disk: undefined };
      const released = await waitForDisk(agent, { id, waitMs, signal }, (now) => {
        return now.state === "RELEASED" || now.wanted !== "release";
      });
      return { disk: diskMessageOf(agent, released ?? decision.row) };
    },
  };
}

/** What lies on a disk without being in its row. Throws a Refusal if that is not known. */
async function othersOn(agent: Agent, row: DiskRow): Promise<string | undefined> {
  const readiness = agent.diskReadiness(row);
  const { loadedStore } = readiness;
  if (loadedStore === undefined) {
    if (row.lvsUuid === undefined || diskState(row, readiness) !== "CLAIMING") return undefined;
    // Refused by this while the target is away.
    await agent.orphans.list();
    const message = `the lvstore of disk ${row.id} is not loaded yet, so it is not known what lies in it`;
    throw new Refusal("STORE_LOADING", message, {
      metadata: { disk: row.id },
      retryAfterMs: 1_000,
    });
  }
  // The name is recorded before a store is made, its uuid after.
  const isOurs = row.lvsUuid === loadedStore.uuid || row.lvsName === loadedStore.name;
  if (!isOurs) return `the lvstore ${loadedStore.name} of somebody else`;
  const { uuid: storeUuid } = loadedStore;
  const { length } = await agent.orphans.ofDisk({ diskId: row.id, storeUuid });
  return length === 0 ? undefined : `${length} lvol${length === 1 ? "" : "s"} without a volume`;
}
