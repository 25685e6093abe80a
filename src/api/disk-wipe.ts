// WipeDisk.
import type { WipeDiskRequest } from "../gen/storagenode/v1/storage_node.ts";
import { wipeConfirmation } from "../model/wipe.ts";
import type { Agent } from "./agent.ts";
import type { StorageNodeHandlers } from "./call.ts";
import { diskMessageOf } from "./disks.ts";
import { Fields } from "./fields.ts";
import { waitForDisk } from "./wait.ts";

export function wipeHandlers(agent: Agent): Pick<StorageNodeHandlers, "wipeDisk"> {
  return {
    async wipeDisk(request, { signal, actor, traceparent }) {
      const { id, waitMs, ...asked } = wipe(request);
      const look = await agent.lookToWipe(id);
      const intent = { kind: "wipeDisk", id, ...asked, look, actor, traceparent } as const;
      const decision = await agent.writer.mutate(intent);
      if (decision.kind !== "disk") return { disk: undefined };
      const isOver = ({ wipe }: { readonly wipe: unknown }) => wipe === undefined;
      const row = await waitForDisk(agent, { id, waitMs, signal }, isOver);
      return { disk: diskMessageOf(agent, row ?? decision.row) };
    },
  };
}

function wipe(message: WipeDiskRequest) {
  const fields = new Fields();
  const serial = fields.requiredText("serial", message.serial);
  const expected = wipeConfirmation(serial);
  if (message.confirmation !== expected) {
    fields.violation("confirmation", `must be "${expected}"`);
  }
  return fields.doneWith({
    id: fields.uuid("disk_id", message.diskId),
    serial,
    evidenceFingerprint: fields.requiredText("evidence_fingerprint", message.evidenceFingerprint),
    reason: fields.reason("reason", message.reason),
    waitMs: fields.waitMs("wait_timeout", message.waitTimeout),
  });
}
