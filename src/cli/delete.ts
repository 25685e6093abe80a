// `storage-node delete`: asks the running agent to delete a volume.
import { DeleteResponse } from "../gen/storagenode/v1/storage_node.ts";
import type { Duration } from "../gen/google/protobuf/duration.ts";
import { isUuid } from "../model/identity.ts";
import { CommandFault, runAgentCommand, UsageFault, type AgentCommand } from "./agent-command.ts";
import { protobufJson } from "./client/protobuf-json.ts";
import type { Io } from "./io.ts";
import { waitOption } from "./wait-option.ts";

const USAGE = `usage: storage-node delete VOLUME_ID [--force --reason TEXT] [--wait SECONDS]
                           [ADDRESS] [--output text|json]

  Deletes a volume and its data. It is refused while hosts are connected.

  --force               delete it under them; needs a reason
  --reason TEXT         kept in the row and the events of the volume
  --wait SECONDS        wait until it is gone; exit code 1 if it is not by then`;

type Asked = {
  readonly id: string;
  readonly force: boolean;
  readonly reason: string;
  readonly wait: Duration | undefined;
};

const COMMAND: AgentCommand<Asked> = {
  name: "delete",
  usage: USAGE,
  json: "the answer as protobuf JSON",
  options: {
    force: { type: "boolean" },
    reason: { type: "string" },
    wait: { type: "string" },
  },
  read: ({ force, reason, wait }, [id, ...more]) => {
    if (id === undefined || more.length > 0) throw new UsageFault("expected exactly one volume id");
    if (!isUuid(id)) {
      throw new UsageFault(`"${id}" is not an id: expected a UUID in lower case with dashes`);
    }
    if (force === true && reason === undefined) throw new UsageFault("--force needs --reason");
    const text = typeof reason === "string" ? reason : "";
    return { id, force: force === true, reason: text, wait: waitOption(wait) };
  },
  run: async (agent, { id, force, reason, wait, json }, { stdout }) => {
    const target = { $case: "lvolId", value: id } as const;
    const asked = { target, force, reason, deferred: false, waitTimeout: wait };
    const answer = await agent.delete(asked);
    if (json) stdout(JSON.stringify(protobufJson()("DeleteResponse", DeleteResponse, answer)));
    const pending = `volume ${id} is being deleted; storage-node explain volume ${id} says how far`;
    if (!answer.done && wait !== undefined) throw new CommandFault(pending);
    if (!json) stdout(answer.done ? `volume ${id} is deleted` : pending);
  },
};

/** Exit code 0 once the deletion is committed, with --wait once the volume is gone. */
export async function deleteVolume(args: readonly string[], io: Io): Promise<number> {
  return await runAgentCommand(COMMAND, args, io);
}
