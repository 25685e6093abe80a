// ProvisionLvol, GetLvol, ListLvols, AllowHost, RevokeHost and Delete of volumes: they check the
// request, have the intent committed, and answer with the row. Convergence is the loops' work; a
// wait_timeout only watches it.
import type { Lvol } from "../gen/storagenode/v1/lvol.ts";
import { Refusal } from "../model/errors.ts";
import { lvolState, type LvolRow } from "../model/lvol.ts";
import type { Agent } from "./agent.ts";
import type { CallContext, StorageNodeHandlers } from "./call.ts";
import { lvolMessage } from "./messages.ts";
import { page } from "./page.ts";
import * as requests from "./requests.ts";
import { waitFor } from "./wait.ts";

type LvolHandlers = Pick<
  StorageNodeHandlers,
  "provisionLvol" | "getLvol" | "listLvols" | "allowHost" | "revokeHost" | "delete"
>;

export function lvolHandlers(agent: Agent): LvolHandlers {
  const message = (row: LvolRow): Lvol =>
    lvolMessage(agent.view(row), agent.rows.disk(row.diskId)?.clusterBytes);

  const changeHost = async (
    kind: "allowHost" | "revokeHost",
    request: requests.HostRequest,
    { signal, traceparent }: CallContext,
  ) => {
    const { id, host, waitMs } = requests.hostChange(request);
    const decision = await agent.writer.mutate({ kind, id, host, traceparent });
    const row = await waitFor(agent, { id, waitMs, signal }, (now) =>
      isObserved(now, decision.row?.generation ?? 0n),
    );
    return { lvol: row && message(row) };
  };

  return {
    async provisionLvol(request, context) {
      const wanted = requests.provision(request);
      const decision = await agent.writer.mutate({
        kind: "provision",
        ...wanted,
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
      const { items, nextPageToken } = page(all, { pageSize, after });
      return { lvols: items.map(message), nextPageToken };
    },

    allowHost: (request, context) => changeHost("allowHost", request, context),
    revokeHost: (request, context) => changeHost("revokeHost", request, context),

    async delete(request, context) {
      const { id, waitMs, force } = requests.deletion(request);
      requireRows(agent);
      const row = agent.rows.lvol(id);
      // Checked here for a quick answer, and by the loop again before the step.
      if (row !== undefined && row.deleteRequestedTime === undefined && !force) {
        await refuseConnected(agent, row);
      }
      const decision = await agent.writer.mutate({
        kind: "delete",
        id,
        force,
        traceparent: context.traceparent,
      });
      if (decision.kind === "lvol" && decision.row === undefined) return { done: true };
      const left = await waitFor(agent, { id, waitMs, signal: context.signal }, (now) => {
        return now.deleteTime !== undefined;
      });
      return { done: left?.deleteTime !== undefined };
    },
  };
}

/** Reads before the rows were ever loaded must not answer "not found". */
export function requireRows(agent: Agent): void {
  if (agent.rows.node !== undefined) return;
  throw new Refusal("DATABASE_DOWN", "the database was not reached yet", { retryAfterMs: 1_000 });
}

function knownLvol(agent: Agent, id: string): LvolRow {
  requireRows(agent);
  const row = agent.rows.lvol(id);
  if (row === undefined) throw new Refusal("NOT_FOUND", `volume ${id} is not on this node`);
  return row;
}

function isObserved(row: LvolRow, generation: bigint): boolean {
  return row.observedGeneration >= generation || row.failed || row.deleteTime !== undefined;
}

/** Up, or nothing more will come of it without a new intent. */
function isSettled(agent: Agent, row: LvolRow): boolean {
  const state = lvolState(agent.view(row));
  if (state === "UP") return row.observedGeneration === row.generation;
  return state === "FAILED" || state === "DATA_MISSING" || state === "DELETED";
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
