// ListDisks, GetDisk, AdmitDisk and ZeroFreeSpace.
import { Disk } from "../gen/storagenode/v1/disk.ts";
import { diskState, type DiskRow } from "../model/disk.ts";
import { refuseOtherSerial } from "../model/disk-admission.ts";
import { Refusal } from "../model/errors.ts";
import type { Agent } from "./agent.ts";
import { spaceOfDisks, type SpaceBytes } from "./capacity.ts";
import type { CallContext, StorageNodeHandlers } from "./call.ts";
import { requireRows } from "./preconditions.ts";
import { diskMessage } from "./messages.ts";
import { page } from "./page.ts";
import * as requests from "./disk-requests.ts";
import { diskId, paging } from "./requests.ts";
import { waitForDisk } from "./wait.ts";

export function diskHandlers(
  agent: Agent,
): Pick<StorageNodeHandlers, "getDisk" | "listDisks" | "admitDisk" | "zeroFreeSpace"> {
  const messages = (rows: readonly DiskRow[]) => diskMessagesOf(agent, rows);
  const message = (row: DiskRow) => diskMessageOf(agent, row);
  const isUp = (row: DiskRow) => diskState(row, agent.diskReadiness(row)) === "UP";
  return {
    async getDisk(request) {
      const id = diskId(request.diskId);
      requireRows(agent);
      const row = agent.rows.disk(id);
      if (row === undefined) throw new Refusal("NOT_FOUND", `disk ${id} is not on this node`);
      return { disk: message(row) };
    },

    async listDisks(request) {
      const wanted = paging(request);
      requireRows(agent);
      const rows = [...agent.rows.disks()].filter((row) => !agent.diskReadiness(row).gone);
      const { items, nextPageToken } = page(rows, wanted, { messages, type: Disk });
      return { disks: items, nextPageToken };
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
      const { waitMs, address, ...asked } = requests.admitDisk(request);
      if (address !== undefined) {
        return { disk: await admitAt(agent, { address, waitMs, ...asked }, context) };
      }
      const decision = await agent.writer.mutate({
        kind: "admitDisk",
        ...asked,
        evidence: await agent.lookAtDisk(asked.id),
        actor: context.actor,
        traceparent: context.traceparent,
      });
      if (decision.kind !== "disk") return { disk: undefined };
      const row = await waitForDisk(agent, { id: asked.id, waitMs, signal: context.signal }, isUp);
      return { disk: message(row ?? decision.row) };
    },
  };
}

/**
 * The disks of a controller: at once where the kernel shows them; else it is handed back to its kernel
 * driver first, and disk-discover goes on once they were looked at. The first disk, if one is known.
 */
async function admitAt(
  agent: Agent,
  asked: ReturnType<typeof requests.admitDisk> & { readonly address: string },
  { signal, actor, traceparent }: Pick<CallContext, "signal" | "actor" | "traceparent">,
): Promise<Disk | undefined> {
  const { address, waitMs } = asked;
  const serial = asked.serial || undefined;
  const by = { actor, traceparent };
  const groupUser = await agent.groupUser(address);
  await agent.writer.mutate({ kind: "inspectController", id: address, groupUser, serial, ...by });
  const here = () => {
    const disks = [...agent.rows.disks()].filter((row) => row.address === address);
    return disks.find((row) => serial === undefined || row.serial === serial);
  };
  /** Once the drive was read. */
  const ended = () => {
    const row = agent.rows.controller(address);
    const isRead = row?.serial !== undefined && row.state !== "MISSING";
    return isRead && row.inspectRequestedTime === undefined ? row : undefined;
  };
  const isUp = (row: DiskRow) => diskState(row, agent.diskReadiness(row)) === "UP";
  const endMs = performance.now() + waitMs;
  if (waitMs > 0) {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(waitMs)]);
    await agent.rows.until(address, () => (here() ?? ended()) !== undefined, limit);
  }
  const found = here();
  if (found === undefined) {
    refuseOtherSerial(ended() ?? { id: address, serial: undefined }, serial);
    return undefined;
  }
  const leftMs = Math.max(0, endMs - performance.now());
  const row = await waitForDisk(agent, { id: found.id, waitMs: leftMs, signal }, isUp);
  return diskMessageOf(agent, row ?? found);
}

/** Space is read once for all of them. */
function diskMessagesOf(agent: Agent, rows: readonly DiskRow[]): Disk[] {
  const spaces = spaceOfDisks(agent, rows);
  return rows.map((row) => messageOf(agent, row, spaces.get(row.id)));
}

export function diskMessageOf(agent: Agent, row: DiskRow): Disk {
  return messageOf(agent, row, spaceOfDisks(agent, [row]).get(row.id));
}

function messageOf(agent: Agent, row: DiskRow, space: SpaceBytes | undefined): Disk {
  const io = agent.iostat.latest("disk", row.id);
  const { originalDriver } = agent.rows.controller(row.address) ?? {};
  return diskMessage(row, agent.diskReadiness(row), { space, io, originalDriver });
}
