// ListDisks, GetDisk, AdmitDisk and ZeroFreeSpace.
import { diskState, type DiskRow } from "../model/disk.ts";
import { Refusal } from "../model/errors.ts";
import { orphanBytes } from "../model/orphan.ts";
import type { Agent } from "./agent.ts";
import type { StorageNodeHandlers } from "./call.ts";
import { requireRows } from "./preconditions.ts";
import { diskMessage } from "./messages.ts";
import { page } from "./page.ts";
import * as requests from "./requests.ts";
import { waitForDisk } from "./wait.ts";

export function diskHandlers(
  agent: Agent,
): Pick<StorageNodeHandlers, "getDisk" | "listDisks" | "admitDisk" | "zeroFreeSpace"> {
  const message = (row: DiskRow) => {
    const bytes = orphanBytes(agent.orphans.known()).get(row.id) ?? 0n;
    return diskMessage(row, agent.diskReadiness(row), bytes);
  };
  const isUp = (row: DiskRow) => diskState(row, agent.diskReadiness(row)) === "UP";
  return {
    async getDisk(request) {
      const id = requests.diskId(request.diskId);
      requireRows(agent);
      const row = agent.rows.disk(id);
      if (row === undefined) throw new Refusal("NOT_FOUND", `disk ${id} is not on this node`);
      return { disk: message(row) };
    },

    async listDisks(request) {
      const wanted = requests.paging(request);
      requireRows(agent);
      const { items, nextPageToken } = page([...agent.rows.disks()], wanted);
      return { disks: items.map(message), nextPageToken };
    },

    async zeroFreeSpace(request, { signal, actor, traceparent }) {
      const { id, waitMs } = requests.zeroFreeSpace(request);
      const disk = agent.rows.disk(id);
      const discardsFree = disk !== undefined && agent.diskReadiness(disk).discardsFree === true;
      const intent = { kind: "zeroFreeSpace", id, discardsFree, actor, traceparent } as const;
      const decision = await agent.writer.mutate(intent);
      if (decision.kind !== "disk") return { disk: undefined };
      const row = await waitForDisk(
        agent,
        { id, waitMs, signal },
        (disk) => disk.freeSpace === "ZEROED",
      );
      return { disk: message(row ?? decision.row) };
    },

    async admitDisk(request, context) {
      const { waitMs, ...asked } = requests.admitDisk(request);
      const decision = await agent.writer.mutate({
        kind: "admitDisk",
        ...asked,
        actor: context.actor,
        traceparent: context.traceparent,
      });
      if (decision.kind !== "disk") return { disk: undefined };
      const row = await waitForDisk(agent, { id: asked.id, waitMs, signal: context.signal }, isUp);
      return { disk: message(row ?? decision.row) };
    },
  };
}
