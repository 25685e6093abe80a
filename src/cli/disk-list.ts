// `storage-node disk list`: all disks, and the NVMe controllers whose drive shows no disk of this node, with the
// reason: such a drive is seen nowhere else.
import type { Disk } from "../gen/storagenode/v1/disk.ts";
import type { Controller } from "../gen/storagenode/v1/node.ts";
import { ListDisksResponse } from "../gen/storagenode/v1/storage_node.ts";
import type { AgentClient } from "./client/agent-client.ts";
import { protobufJson } from "./client/protobuf-json.ts";
import { table } from "./client/text.ts";
import { diskTable } from "./disk-text.ts";
import type { Io } from "./io.ts";

export async function listDisks(agent: AgentClient, json: boolean, { stdout }: Io): Promise<void> {
  const disks = [...(await agent.listDisks())];
  if (json) {
    const answer = { disks, nextPageToken: "" };
    const text = protobufJson()("ListDisksResponse", ListDisksResponse, answer);
    return stdout(JSON.stringify(text, undefined, 2));
  }
  const others = withoutDisk(await agent.listControllers(), disks);
  stdout(diskTable(disks));
  if (others.length > 0) stdout(`\nwithout a disk of this node:\n${controllerTable(others)}`);
}

function withoutDisk(
  controllers: readonly Controller[],
  disks: readonly Disk[],
): readonly Controller[] {
  const listed = new Set(disks.map(({ meta }) => meta?.id));
  return controllers.filter(
    ({ state, diskIds }) => state !== "MISSING" && !diskIds.some((id) => listed.has(id)),
  );
}

function controllerTable(controllers: readonly Controller[]): string {
  const rows = controllers.map(({ address, serial, driver, state, stateReason }) => [
    address,
    serial === "" ? "?" : serial,
    driver === "" ? "none" : driver,
    state,
    stateReason,
  ]);
  return table([["address", "serial", "driver", "state", ""], ...rows]).join("\n");
}
