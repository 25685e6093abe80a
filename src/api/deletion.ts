// Delete, of a volume or a snapshot: commits the intent and answers whether anything is left of it.
import type { DeleteResponse } from "../gen/storagenode/v1/storage_node.ts";
import { Refusal } from "../model/errors.ts";
import type { LvolRow } from "../model/lvol.ts";
import { refuseOrphans } from "../model/orphan.ts";
import type { Agent } from "./agent.ts";
import type { CallContext, StorageNodeHandlers } from "./call.ts";
import { requireRows } from "./preconditions.ts";
import * as requests from "./requests.ts";
import { waitFor, waitForSnapshot } from "./wait.ts";

export function deletionHandlers(agent: Agent): Pick<StorageNodeHandlers, "delete"> {
  return {
    async delete(request, context) {
      const asked = requests.deletion(request);
      requireRows(agent);
      return asked.kind === "snapshot"
        ? await deleteSnapshot(agent, asked, context)
        : await deleteVolume(agent, asked, context);
    },
  };
}

async function deleteVolume(
  agent: Agent,
  { id, waitMs, force, reason }: requests.Deletion,
  { actor, traceparent, signal }: CallContext,
): Promise<DeleteResponse> {
  const row = agent.rows.lvol(id);
  // Check here to refuse at once; the step that deletes the subsystem checks again.
  const isRepeat = row?.deleteRequestedTime !== undefined && !row.failed;
  if (row !== undefined && !isRepeat && !force) await refuseConnected(agent, row);
  const decision = await agent.writer.mutate({
    kind: "delete",
    id,
    force,
    reason,
    actor,
    traceparent,
  });
  if (decision.kind === "lvol" && decision.row === undefined) {
    refuseOrphans(id, await agent.orphans.ofVolume(id));
    return { done: true };
  }
  const latest = await waitFor(agent, { id, waitMs, signal }, (now) => {
    return now.deleteTime !== undefined;
  });
  return { done: latest?.deleteTime !== undefined };
}

async function deleteSnapshot(
  agent: Agent,
  { id, waitMs, deferred }: requests.Deletion,
  { actor, traceparent, signal }: CallContext,
): Promise<DeleteResponse> {
  const mutation = { kind: "deleteSnapshot", id, deferred, actor, traceparent } as const;
  const decision = await agent.writer.mutate(mutation);
  if (decision.kind === "snapshot" && decision.row === undefined) {
    refuseOrphans(id, await agent.orphans.ofVolume(id));
    return { done: true };
  }
  const latest = await waitForSnapshot(agent, { id, waitMs, signal }, (now) => {
    return now.deleteTime !== undefined;
  });
  return { done: latest?.deleteTime !== undefined };
}

async function refuseConnected(agent: Agent, row: LvolRow): Promise<void> {
  if (!row.exported || !agent.view(row).targetConnected) return;
  const hosts = await agent.connectedHosts(row.nqn);
  if (hosts.length === 0) return;
  throw new Refusal("IN_USE", `volume ${row.id} is in use by ${hosts.join(", ")}`, {
    metadata: { hosts: hosts.join(",") },
    preconditions: hosts.map((host) => ({
      subject: host,
      description: `is connected to ${row.nqn}`,
    })),
  });
}
