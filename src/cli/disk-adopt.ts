// `storage-node disk adopt`: lists what lies in the store of a disk, or makes that store one of this node.
import type { Duration } from "../gen/google/protobuf/duration.ts";
import { AdoptDiskResponse } from "../gen/storagenode/v1/storage_node.ts";
import { formatBytes } from "../model/bytes.ts";
import { CommandFault } from "./agent-command.ts";
import type { AgentClient } from "./client/agent-client.ts";
import { protobufJson } from "./client/protobuf-json.ts";
import { table } from "./client/text.ts";
import { diskLine, stateOf } from "./disk-text.ts";
import type { Io } from "./io.ts";

type Asked = {
  readonly diskId: string;
  readonly serial: string | undefined;
  /** Undefined: nothing is adopted. */
  readonly store: string | undefined;
  readonly wait: Duration | undefined;
  readonly json: boolean;
};

export async function adopt(agent: AgentClient, asked: Asked, { stdout }: Io): Promise<void> {
  const { diskId, store: storeUuid = "", wait: waitTimeout, json } = asked;
  const serial = asked.serial ?? (await agent.getDisk({ diskId })).disk?.status?.serial ?? "";
  const validateOnly = storeUuid === "";
  const request = { diskId, serial, waitTimeout, validateOnly, storeUuid };
  const answer = await agent.adoptDisk(request);
  if (json) stdout(JSON.stringify(protobufJson()("AdoptDiskResponse", AdoptDiskResponse, answer)));
  else stdout(validateOnly ? contentsText(answer) : answer.disk ? diskLine(answer.disk) : "");
  const isDone = validateOnly ? answer.store !== undefined : stateOf(answer.disk?.status) === "UP";
  if (waitTimeout !== undefined && !isDone) throw new CommandFault("adopt is not done yet");
}

function contentsText({ disk, store, contents }: AdoptDiskResponse): string {
  const head = disk === undefined ? "" : diskLine(disk);
  if (store === undefined) return `${head}\nits store is not loaded yet: ask again`;
  const used = `${formatBytes(store.allocatedBytes)} of ${formatBytes(store.totalBytes)} used`;
  const rows = contents.map(({ name, uuid, sizeBytes, allocatedBytes, snapshot, clone }) => {
    const kind = snapshot ? "snapshot" : clone ? "clone" : "volume";
    return [kind, name, formatBytes(sizeBytes), formatBytes(allocatedBytes), uuid];
  });
  const list = table([["kind", "name", "size", "allocated", "uuid"], ...rows]);
  const id = disk?.meta?.id ?? "";
  const next = `to make it a store of this node: storage-node disk adopt ${id} --store ${store.uuid}`;
  return [head, `store ${store.name}, uuid ${store.uuid}, ${used}`, ...list, "", next].join("\n");
}
