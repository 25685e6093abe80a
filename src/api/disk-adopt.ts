// AdoptDisk.
import type { StoreContent } from "../gen/storagenode/v1/node.ts";
import { FreeSpace, type Lvstore } from "../gen/storagenode/v1/disk.ts";
import { diskState, isInspecting, type DiskRow, type LoadedStore } from "../model/disk.ts";
import { Refusal } from "../model/errors.ts";
import type { FoundLvol } from "../model/found-lvol.ts";
import type { Agent } from "./agent.ts";
import type { CallContext, StorageNodeHandlers } from "./call.ts";
import * as requests from "./disk-requests.ts";
import { diskMessageOf } from "./disks.ts";
import { waitForDisk } from "./wait.ts";

type Asked = ReturnType<typeof requests.adoptDisk>;

export function adoptionHandlers(agent: Agent): Pick<StorageNodeHandlers, "adoptDisk"> {
  return {
    async adoptDisk(request, context) {
      const asked = requests.adoptDisk(request);
      const { storeUuid } = asked;
      const row =
        storeUuid === undefined
          ? await inspect(agent, asked, context)
          : await adopt(agent, { ...asked, storeUuid }, context);
      const contents = await agent.storeContents(asked.id);
      return {
        disk: diskMessageOf(agent, row),
        contents: contents?.lvols.map((lvol) => contentOf(lvol, contents.store)) ?? [],
        store: contents && storeOf(contents.store),
      };
    },
  };
}

/** Has the disk attached, unless its store is loaded already. */
async function inspect(
  agent: Agent,
  { id, serial, waitMs }: Asked,
  { signal, actor, traceparent }: CallContext,
): Promise<DiskRow> {
  const known = agent.rows.disk(id);
  const isLoaded = (row: DiskRow) => agent.diskReadiness(row).loadedStore !== undefined;
  if (known?.serial === serial && isLoaded(known)) return known;
  const evidence = await agent.lookAtDisk(id);
  const by = { actor, traceparent };
  const decision = await agent.writer.mutate({ kind: "inspectDisk", id, serial, evidence, ...by });
  if (decision.kind !== "disk") throw new Error("the intent of a look did not lead to a disk");
  const isOver = (row: DiskRow) => !isInspecting(row);
  return (await waitForDisk(agent, { id, waitMs, signal }, isOver)) ?? decision.row;
}

async function adopt(
  agent: Agent,
  { id, serial, storeUuid, waitMs }: Asked & { readonly storeUuid: string },
  { signal, actor, traceparent }: CallContext,
): Promise<DiskRow> {
  const known = agent.rows.disk(id);
  if (known === undefined) throw new Refusal("NOT_FOUND", `disk ${id} is not on this node`);
  // The repeat of a call that was answered, or not: what lies in the store has its rows, loaded or not.
  const isOurs = known.adoptedStore === storeUuid || known.lvsUuid === storeUuid;
  const row =
    isOurs && known.serial === serial
      ? known
      : await agent.adoptDisk({ id, serial, storeUuid, actor, traceparent });
  const isUp = (now: DiskRow) => diskState(now, agent.diskReadiness(now)) === "UP";
  return (await waitForDisk(agent, { id, waitMs, signal }, isUp)) ?? row;
}

function contentOf(lvol: FoundLvol, { clusterBytes }: LoadedStore): StoreContent {
  const { name, uuid, sizeBytes, allocatedClusters, thin, snapshot, parent } = lvol;
  const allocatedBytes = (allocatedClusters ?? 0n) * clusterBytes;
  return { name, uuid, sizeBytes, allocatedBytes, thin, snapshot, clone: parent !== undefined };
}

function storeOf({ name, uuid, clusterBytes, totalClusters, freeClusters }: LoadedStore): Lvstore {
  const totalBytes = totalClusters * clusterBytes;
  const freeBytes = freeClusters * clusterBytes;
  return {
    name,
    uuid,
    clusterBytes,
    totalBytes,
    freeBytes,
    promisedBytes: 0n,
    freeSpace: FreeSpace.FREE_SPACE_UNKNOWN,
    allocatedBytes: totalBytes - freeBytes,
    snapshotBytes: 0n,
    orphanBytes: 0n,
  };
}
