// Snapshot, GetSnapshot and ListSnapshots: validate the request, commit the intent, and
// answer with the row. The loops take and delete the snapshot.
import { Snapshot } from "../gen/storagenode/v1/snapshot.ts";
import { Refusal } from "../model/errors.ts";
import { orphanBytes } from "../model/orphan.ts";
import { snapshotState, type SnapshotRow } from "../model/snapshot.ts";
import type { Agent } from "./agent.ts";
import type { StorageNodeHandlers } from "./call.ts";
import { refuseKnownOrphan, refuseVolumeWithoutData, requireRows } from "./preconditions.ts";
import { snapshotMessage } from "./messages.ts";
import { page } from "./page.ts";
import * as requests from "./snapshot-requests.ts";
import { waitForSnapshot } from "./wait.ts";

type SnapshotHandlers = Pick<StorageNodeHandlers, "snapshot" | "getSnapshot" | "listSnapshots">;

export function snapshotHandlers(agent: Agent): SnapshotHandlers {
  return {
    async snapshot(request, { actor, traceparent, signal }) {
      const { id, waitMs, ...wanted } = requests.snapshot(request);
      await refuseKnownOrphan(agent, id);
      refuseVolumeWithoutData(agent, { id, sourceLvolId: wanted.sourceLvolId });
      const decision = await agent.writer.mutate({
        kind: "snapshot",
        discardGuard: agent.discardGuard(),
        id,
        ...wanted,
        orphanBytes: orphanBytes(agent.orphans.known()),
        actor,
        traceparent,
      });
      if (decision.kind !== "snapshot" || decision.row === undefined)
        return { snapshot: undefined };
      const row = await waitForSnapshot(agent, { id, waitMs, signal }, (now) => {
        return isSettled(agent, now);
      });
      return { snapshot: snapshotMessageOf(agent, row ?? decision.row) };
    },

    async getSnapshot({ snapshotId }) {
      const id = requests.snapshotId(snapshotId);
      requireRows(agent);
      return { snapshot: snapshotMessageOf(agent, knownSnapshot(agent, id)) };
    },

    async listSnapshots(request) {
      const { sourceLvolId, showDeleted, pageSize, after } = requests.listSnapshots(request);
      requireRows(agent);
      const all = [...agent.rows.snapshots.all()].filter(
        (row) =>
          (showDeleted || row.deleteTime === undefined) &&
          (sourceLvolId === undefined || row.sourceLvolId === sourceLvolId),
      );
      const messages = (rows: readonly SnapshotRow[]) =>
        rows.map((row) => snapshotMessageOf(agent, row));
      const shown = { messages, type: Snapshot };
      const { items, nextPageToken } = page(all, { pageSize, after }, shown);
      return { snapshots: items, nextPageToken };
    },
  };
}

export function snapshotMessageOf(agent: Agent, row: SnapshotRow): Snapshot {
  return snapshotMessage(agent.snapshotView(row), agent.rows.disk(row.diskId)?.clusterBytes);
}

function knownSnapshot(agent: Agent, id: string): SnapshotRow {
  const row = agent.rows.snapshots.get(id);
  if (row !== undefined) return row;
  const hint = agent.rows.lvol(id) === undefined ? "" : "; a volume has that id";
  throw new Refusal("NOT_FOUND", `snapshot ${id} is not on this node${hint}`);
}

/** UP, or waiting longer is of no use. */
function isSettled(agent: Agent, row: SnapshotRow): boolean {
  const state = snapshotState(agent.snapshotView(row));
  if (state === "UP") return row.observedGeneration === row.generation;
  return state === "FAILED" || state === "DATA_MISSING" || state === "DELETED";
}
