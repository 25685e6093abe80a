// `storage-node explain`: asks the running agent why a volume, a snapshot or a disk is not in its
// desired state.
import { runAgentCommand, UsageFault, type AgentCommand } from "./agent-command.ts";
import { protobufJson } from "./client/protobuf-json.ts";
import { widthOf } from "./client/text.ts";
import type { Io } from "./io.ts";
import { ExplainResponse, type ExplainRequest } from "../gen/storagenode/v1/storage_node.ts";
import { isUuid } from "../model/identity.ts";
import { explanationText } from "./explanation-text.ts";

const USAGE = `usage: storage-node explain volume|snapshot|disk ID [ADDRESS] [--output text|json]

  Asks the running agent questions about the volume, the snapshot or the disk, and prints the answers,
  the cause, the cure, and what the agent does next. Changes nothing.
`;

type Asked = { readonly target: NonNullable<ExplainRequest["target"]> };

const COMMAND: AgentCommand<Asked> = {
  name: "explain",
  usage: USAGE,
  json: "the answer as protobuf JSON",
  options: {},
  read: (_values, positionals) => ({ target: targetOf(positionals) }),
  run: async (agent, { target, at, json }, { stdout, columns }) => {
    const answer = await agent.explain({ target });
    const view = { width: widthOf(columns?.()), grpcurl: at.grpcurl, now: new Date() };
    stdout(json ? jsonOf(answer) : explanationText(answer, view));
  },
};

/** Exit code 0 if the agent answers, whatever the answer is. */
export async function explain(args: readonly string[], io: Io): Promise<number> {
  return await runAgentCommand(COMMAND, args, io);
}

const TARGETS = [
  ["volume", "lvolId"],
  ["snapshot", "snapshotId"],
  ["disk", "diskId"],
] as const;

function targetOf([kind, id, ...more]: readonly string[]): Asked["target"] {
  const target = TARGETS.find(([name]) => name === kind)?.[1];
  if (target === undefined) {
    throw new UsageFault(`the first argument must be "volume", "snapshot" or "disk"`);
  }
  if (id === undefined || more.length > 0) throw new UsageFault(`expected exactly one ${kind} id`);
  if (!isUuid(id)) {
    throw new UsageFault(`"${id}" is not an id: expected a UUID in lower case with dashes`);
  }
  return { $case: target, value: id };
}

function jsonOf(answer: ExplainResponse): string {
  return JSON.stringify(protobufJson()("ExplainResponse", ExplainResponse, answer), undefined, 2);
}
