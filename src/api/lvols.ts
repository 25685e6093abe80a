// ProvisionLvol, GetLvol, ListLvols, AllowHost and RevokeHost: validate the
// request, commit the intent, and answer with the row. The loops apply the intent to the target; a
// wait_timeout only waits for that. The handlers never change the target.
import { Lvol } from "../gen/storagenode/v1/lvol.ts";
import { noVolume } from "../model/intent.ts";
import {
  hostIsGone,
  hostIsLetIn,
  lvolState,
  type LvolState,
  type VolumeView,
} from "../model/lvol-state.ts";
import { type LvolRow } from "../model/lvol.ts";
import { orphanBytes } from "../model/orphan.ts";
import type { Agent } from "./agent.ts";
import type { CallContext, StorageNodeHandlers } from "./call.ts";
import { lvolMessage } from "./messages.ts";
import { page } from "./page.ts";
import { refuseKnownOrphan, refuseSnapshotWithoutData, requireRows } from "./preconditions.ts";
import * as requests from "./requests.ts";
import { waitFor } from "./wait.ts";

type LvolHandlers = Pick<
  StorageNodeHandlers,
  "provisionLvol" | "getLvol" | "listLvols" | "allowHost" | "revokeHost"
>;

export function lvolHandlers(agent: Agent): LvolHandlers {
  const message = (row: LvolRow) => messageOf(agent, row);

  return {
    async provisionLvol(request, context) {
      const wanted = requests.provision(request);
      await refuseKnownOrphan(agent, wanted.id);
      const { sourceSnapshotId } = wanted.request;
      refuseSnapshotWithoutData(agent, { id: wanted.id, sourceSnapshotId });
      const isNewClone = sourceSnapshotId !== undefined && agent.rows.lvol(wanted.id) === undefined;
      if (isNewClone) await agent.refuseCloneOnOldTarget(wanted.id);
      const decision = await agent.writer.mutate({
        kind: "provision",
        ...wanted,
        actor: context.actor,
        orphanBytes: orphanBytes(agent.orphans.known()),
        freeClusters: await agent.freeFor(wanted.request),
        discardGuard: agent.discardGuard(),
        traceparent: context.traceparent,
      });
      if (decision.kind !== "lvol" || decision.row === undefined) return { lvol: undefined };
      if (wanted.validateOnly) return { lvol: message(decision.row) };
      const { waitMs, id } = wanted;
      const row = await waitFor(agent, { id, waitMs, signal: context.signal }, (now) =>
        isSettled(agent, now),
      );
      return { lvol: message(row ?? decision.row) };
    },

    async getLvol(request) {
      const id = requests.lvolId(request.lvolId);
      return { lvol: message(knownLvol(agent, id)) };
    },

    async listLvols(request) {
      const { diskId, showDeleted, pageSize, after } = requests.listLvols(request);
      requireRows(agent);
      const all = [...agent.rows.lvols()].filter(
        (row) =>
          (showDeleted || row.deleteTime === undefined) &&
          (diskId === undefined || row.diskId === diskId),
      );
      const shown = { messages: (rows: readonly LvolRow[]) => rows.map(message), type: Lvol };
      const { items, nextPageToken } = page(all, { pageSize, after }, shown);
      return { lvols: items, nextPageToken };
    },

    allowHost: (request, context) => changeHost(agent, { kind: "allowHost", request, context }),
    revokeHost: (request, context) => changeHost(agent, { kind: "revokeHost", request, context }),
  };
}

export function messageOf(agent: Agent, row: LvolRow): Lvol {
  const io = agent.iostat.latest("lvol", row.id);
  return lvolMessage(agent.view(row), agent.rows.disk(row.diskId)?.clusterBytes, io);
}

/** AllowHost and RevokeHost: each waits for its own host, whatever the state of the volume. */
async function changeHost(
  agent: Agent,
  {
    kind,
    request,
    context,
  }: {
    readonly kind: "allowHost" | "revokeHost";
    readonly request: requests.HostRequest;
    readonly context: CallContext;
  },
): Promise<{ lvol: Lvol | undefined }> {
  const { signal, actor, traceparent } = context;
  const { id, host, waitMs } = requests.hostChange(kind, request);
  const wasAllowed = agent.rows.lvol(id)?.hosts.includes(host) === true;
  const decision = await agent.writer.mutate({ kind, id, host, actor, traceparent });
  if (decision.kind !== "lvol" || decision.row === undefined) return { lvol: undefined };
  // Nothing to change in the row, but somebody else may have changed the target: only a read tells.
  const reads = wasAllowed === (kind === "allowHost");
  if (reads) agent.readExportAgain(id);
  const isDone = (view: VolumeView, nqn: string) => {
    if (reads && view.observed.subsystemStale) return false;
    return kind === "allowHost" ? hostIsLetIn(view, nqn) : hostIsGone(view, nqn);
  };
  const row = await waitFor(agent, { id, waitMs, signal }, (now) => {
    const view = agent.view(now);
    return isOver(lvolState(view)) || isDone(view, host);
  });
  return { lvol: row && messageOf(agent, row) };
}

function knownLvol(agent: Agent, id: string): LvolRow {
  requireRows(agent);
  const row = agent.rows.lvol(id);
  if (row !== undefined) return row;
  throw noVolume(id, agent.rows.snapshots.get(id) !== undefined);
}

/** A state that only a new intent or an operator can change: waiting longer is of no use. */
export function isOver(state: LvolState): boolean {
  return state === "FAILED" || state === "DATA_MISSING" || state === "DELETED";
}

/** UP as intended, or waiting longer is of no use. */
function isSettled(agent: Agent, row: LvolRow): boolean {
  const state = lvolState(agent.view(row));
  return state === "UP" ? row.observedGeneration === row.generation : isOver(state);
}
