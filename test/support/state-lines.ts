// The lines of the tables of docs/states.md: how each RPC is called for a volume, a snapshot, a disk or the node.
import { randomUUID } from "node:crypto";
import {
  StorageNodeService,
  type DeleteRequest,
  type StreamIostatRequest,
} from "../../src/gen/storagenode/v1/storage_node.ts";
import { call, until, type TestAgent } from "./agent.ts";
import { getSnapshot, takeSnapshot } from "./snapshots.ts";
import { cellOf, streamCell, type Cell, type Line } from "./state-table.ts";
import { getLvol, HOST, lvolSpec, provision, resize, stateOf, update } from "./volumes.ts";

export const SIZE = 64n * 1024n ** 2n;
const OTHER_HOST = "nqn.2026-11.io.host:other";
const PAGE = { pageSize: 0, pageToken: "" };
const NO_WAIT = { waitTimeout: undefined };

/** A state as tables show it: LVOL_STATE_UP is UP. */
const short = (state: string | undefined) => (state ?? "").replace(/^[A-Z]+_STATE_/, "");

function deletion(target: DeleteRequest["target"], deferred = false): DeleteRequest {
  return { ...NO_WAIT, target, deferred, force: false, reason: "" };
}

async function deleteCell(
  { client }: TestAgent,
  target: DeleteRequest["target"],
  deferred = false,
): Promise<Cell> {
  const answer = call(client, client.delete.bind(client), deletion(target, deferred));
  return await cellOf(answer, ({ done }) => (done ? "done" : "not done yet"));
}

function explainCell(
  { client }: TestAgent,
  target: { readonly $case: "lvolId" | "snapshotId" | "diskId"; readonly value: string },
): Promise<Cell> {
  return cellOf(call(client, client.explain.bind(client), { target }));
}

function resolveCell({ client }: TestAgent, objectId: string): Promise<Cell> {
  const request = { objectId, reason: "the target was restarted" };
  return cellOf(call(client, client.resolveOutcome.bind(client), request));
}

function eventsCell({ client }: TestAgent, objectId: string): Promise<Cell> {
  return cellOf(call(client, client.listEvents.bind(client), { ...PAGE, objectId }));
}

/** Frames with counters, without any, or none while the target is away. */
async function iostatCell(agent: TestAgent, filter: Partial<StreamIostatRequest>): Promise<Cell> {
  const { iostat, components } = agent.node.agent;
  await until("the stream before has ended", () => iostat.readers === 0);
  const unset = { lvolIds: [], diskIds: [], interval: undefined, includeDisks: false };
  const isAway = components().some(({ name, ok }) => name === "target" && !ok);
  return await streamCell(
    agent.client.streamIostat({ ...unset, ...filter }),
    ({ iostats }) => (iostats.length > 0 ? "counters" : "no counters"),
    () => isAway && iostat.readers > 0,
  );
}

/** A volume as it was asked for, by default with SIZE and HOST. */
export const VOLUME_LINES: readonly Line<string>[] = [
  { name: "GetLvol", ask: (on, id) => cellOf(getLvol(on, id), (lvol) => short(stateOf(lvol))) },
  {
    name: "GetExport",
    ask: ({ client }, value) => {
      const request = { target: { $case: "lvolId", value }, hostNqn: HOST } as const;
      const answer = call(client, client.getExport.bind(client), request);
      return cellOf(answer, (found) => (found.export?.ready === true ? "ready" : "not ready"));
    },
  },
  { name: "Explain", ask: (on, value) => explainCell(on, { $case: "lvolId", value }) },
  { name: "ListEvents", ask: eventsCell },
  { name: "StreamIostat", ask: (on, id) => iostatCell(on, { lvolIds: [id] }) },
  {
    name: "ProvisionLvol of this id",
    ask: (on, id) => cellOf(provision(on, { sizeBytes: SIZE }, { id, wait: false })),
  },
  {
    name: "ProvisionLvol of this id, another spec",
    ask: (on, id) => cellOf(provision(on, { sizeBytes: SIZE / 2n }, { id, wait: false })),
  },
  {
    name: "ResizeLvol, larger",
    ask: (on, id) => cellOf(resize(on, id, 4n * SIZE, { wait: false })),
  },
  {
    name: "ResizeLvol, smaller",
    ask: (on, id) => cellOf(resize(on, id, SIZE / 2n, { wait: false })),
  },
  {
    name: "UpdateLvol",
    ask: (on, id) => {
      const change = { labels: { tier: "fast" }, setLabels: true };
      return cellOf(update(on, id, change, { wait: false }));
    },
  },
  {
    name: "AllowHost",
    ask: ({ client }, lvolId) => {
      const request = { ...NO_WAIT, lvolId, hostNqn: OTHER_HOST };
      return cellOf(call(client, client.allowHost.bind(client), request));
    },
  },
  {
    name: "RevokeHost",
    ask: ({ client }, lvolId) => {
      const request = { ...NO_WAIT, lvolId, hostNqn: HOST };
      return cellOf(call(client, client.revokeHost.bind(client), request));
    },
  },
  {
    name: "ConfirmHosts",
    ask: ({ client }, lvolId) => {
      const request = { confirmations: [{ lvolId, hostNqns: [] }], reason: "checked" };
      return cellOf(call(client, client.confirmHosts.bind(client), request));
    },
  },
  {
    name: "Snapshot",
    ask: (on, id) => cellOf(takeSnapshot(on, id, { id: derived(id), wait: false })),
  },
  { name: "ResolveOutcome", ask: resolveCell },
  { name: "Delete", ask: (on, value) => deleteCell(on, { $case: "lvolId", value }) },
];

/** Another id, the same one each time. */
const derived = (id: string) => `${id.slice(0, -1)}${id.endsWith("0") ? "1" : "0"}`;

/** A snapshot, and the volume that it was taken of. */
export type SnapshotSubject = { readonly id: string; readonly sourceId: string };

export const SNAPSHOT_LINES: readonly Line<SnapshotSubject>[] = [
  {
    name: "GetSnapshot",
    ask: (on, { id }) => cellOf(getSnapshot(on, id), ({ status }) => short(status?.state)),
  },
  { name: "Explain", ask: (on, { id: value }) => explainCell(on, { $case: "snapshotId", value }) },
  { name: "ListEvents", ask: (on, { id }) => eventsCell(on, id) },
  {
    name: "Snapshot of this id",
    ask: (on, { id, sourceId }) => cellOf(takeSnapshot(on, sourceId, { id, wait: false })),
  },
  {
    name: "ProvisionLvol of a clone",
    ask: (on, { id: sourceSnapshotId }) => {
      const change = { sizeBytes: SIZE, sourceSnapshotId };
      return cellOf(provision(on, change, { id: derived(sourceSnapshotId), wait: false }));
    },
  },
  { name: "ResolveOutcome", ask: (on, { id }) => resolveCell(on, id) },
  {
    name: "Delete",
    ask: (on, { id: value }) => deleteCell(on, { $case: "snapshotId", value }),
  },
  {
    name: "Delete, deferred",
    ask: (on, { id: value }) => deleteCell(on, { $case: "snapshotId", value }, true),
  },
];

export type DiskSubject = { readonly id: string; readonly serial: string };

/** In an order in which no line changes what the next one finds. */
export const DISK_LINES: readonly Line<DiskSubject>[] = [
  {
    name: "GetDisk",
    ask: ({ client }, { id: diskId }) =>
      cellOf(call(client, client.getDisk.bind(client), { diskId }), ({ disk }) =>
        short(disk?.status?.state),
      ),
  },
  { name: "Explain", ask: (on, { id: value }) => explainCell(on, { $case: "diskId", value }) },
  { name: "ListEvents", ask: (on, { id }) => eventsCell(on, id) },
  {
    name: "StreamIostat",
    ask: (on, { id }) => iostatCell(on, { diskIds: [id], includeDisks: true }),
  },
  {
    name: "ProvisionLvol on it",
    ask: ({ client }, { id: diskId }) => {
      const spec = lvolSpec({ sizeBytes: SIZE, diskId });
      const request = { ...NO_WAIT, id: randomUUID(), spec, validateOnly: true };
      return cellOf(call(client, client.provisionLvol.bind(client), request));
    },
  },
  {
    name: "ZeroFreeSpace",
    ask: ({ client }, { id: diskId }) =>
      cellOf(call(client, client.zeroFreeSpace.bind(client), { ...NO_WAIT, diskId })),
  },
  {
    name: "Cordon",
    ask: ({ client }, { id: diskId }) =>
      cellOf(call(client, client.cordon.bind(client), { diskId, reason: "worn out" })),
  },
  {
    name: "Uncordon",
    ask: ({ client }, { id: diskId }) =>
      cellOf(call(client, client.uncordon.bind(client), { diskId })),
  },
  { name: "ResolveOutcome", ask: (on, { id }) => resolveCell(on, id) },
  {
    name: "AdoptDisk",
    ask: ({ client }, { id: diskId, serial }) => {
      const request = { ...NO_WAIT, diskId, serial, validateOnly: true, storeUuid: "" };
      return cellOf(call(client, client.adoptDisk.bind(client), request));
    },
  },
  {
    name: "LocateDisk",
    ask: ({ client }, { id: diskId }) =>
      cellOf(call(client, client.locateDisk.bind(client), { diskId, on: true })),
  },
  {
    name: "WipeDisk",
    ask: ({ client }, { id: diskId, serial }) => {
      const confirmation = `destroy all data on ${serial}`;
      const asked = { evidenceFingerprint: "0", reason: "to be used here", confirmation };
      const request = { ...NO_WAIT, ...asked, diskId, serial };
      return cellOf(call(client, client.wipeDisk.bind(client), request));
    },
  },
  {
    name: "AdmitDisk",
    ask: ({ client }, { id: diskId, serial }) => {
      const unset = { evidenceFingerprint: "", address: "", discardZeroes: false };
      const request = { ...NO_WAIT, ...unset, diskId, serial };
      return cellOf(call(client, client.admitDisk.bind(client), request));
    },
  },
  {
    name: "AdmitDisk, another serial",
    ask: ({ client }, { id: diskId }) => {
      const unset = { evidenceFingerprint: "", address: "", discardZeroes: false };
      const request = { ...NO_WAIT, ...unset, diskId, serial: "OTHER" };
      return cellOf(call(client, client.admitDisk.bind(client), request));
    },
  },
  {
    name: "ReleaseDisk",
    ask: ({ client }, { id: diskId, serial }) => {
      const request = { ...NO_WAIT, diskId, serial, force: false, reason: "" };
      return cellOf(call(client, client.releaseDisk.bind(client), request));
    },
  },
];

/** An lvol that is an orphan, by its name and uuid; each call has one of its own. */
export type NodeSubject = { readonly name: string; readonly uuid: string };

export const NODE_LINES: readonly Line<NodeSubject>[] = [
  {
    name: "GetHealth",
    ask: ({ client }) =>
      cellOf(call(client, client.getHealth.bind(client), {}), ({ ready }) =>
        ready ? "ready" : "not ready",
      ),
  },
  {
    name: "GetNode",
    ask: ({ client }) =>
      cellOf(call(client, client.getNode.bind(client), {}), ({ hold }) =>
        hold?.held === true ? "held" : "",
      ),
  },
  {
    name: "Watch",
    ask: ({ client }) =>
      streamCell(client.watch({ fromRevision: 0n, bookmarkInterval: undefined }), () => ""),
  },
  { name: "ListEvents", ask: (on) => eventsCell(on, "") },
  {
    name: "ListLvols",
    ask: ({ client }) =>
      cellOf(
        call(client, client.listLvols.bind(client), { ...PAGE, diskId: "", showDeleted: false }),
      ),
  },
  {
    name: "ListSnapshots",
    ask: ({ client }) =>
      cellOf(
        call(client, client.listSnapshots.bind(client), {
          ...PAGE,
          sourceLvolId: "",
          showDeleted: false,
        }),
      ),
  },
  {
    name: "ListExports",
    ask: ({ client }) =>
      cellOf(call(client, client.listExports.bind(client), { ...PAGE, hostNqn: "" })),
  },
  {
    name: "ListDisks",
    ask: ({ client }) => cellOf(call(client, client.listDisks.bind(client), PAGE)),
  },
  {
    name: "ListControllers",
    ask: ({ client }) => cellOf(call(client, client.listControllers.bind(client), PAGE)),
  },
  {
    name: "ListOrphans",
    ask: ({ client }) => cellOf(call(client, client.listOrphans.bind(client), PAGE)),
  },
  {
    name: "ProvisionLvol, any disk",
    ask: ({ client }) => {
      const spec = lvolSpec({ sizeBytes: SIZE });
      const request = { ...NO_WAIT, id: randomUUID(), spec, validateOnly: true };
      return cellOf(call(client, client.provisionLvol.bind(client), request));
    },
  },
  {
    name: "AdoptOrphan",
    ask: ({ client }, { uuid }) =>
      cellOf(call(client, client.adoptOrphan.bind(client), { uuid, id: derived(uuid) })),
  },
  {
    name: "PurgeOrphan",
    ask: ({ client }, { uuid, name }) =>
      cellOf(
        call(client, client.purgeOrphan.bind(client), { uuid, name, kind: "lvol", reason: "test" }),
        ({ done }) => (done ? "done" : "not done yet"),
      ),
  },
  {
    name: "Cordon",
    ask: ({ client }) =>
      cellOf(call(client, client.cordon.bind(client), { diskId: "", reason: "upgrade" })),
  },
  {
    name: "Uncordon",
    ask: ({ client }) => cellOf(call(client, client.uncordon.bind(client), { diskId: "" })),
  },
];

/** Every method of the service, as tables name it. */
export const METHODS: readonly string[] = Object.values(StorageNodeService).map(({ path }) => {
  return path.slice(path.lastIndexOf("/") + 1);
});
