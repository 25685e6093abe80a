// `storage-node explain`: asks the running agent why a volume or a disk is not as it should be.
import { parseArgs } from "node:util";
import type { Io } from "./cli.ts";
import { AgentClient, agentAddress, AgentFault } from "./client/agent-client.ts";
import { protobufJson } from "./client/protobuf-json.ts";
import { widthOf } from "./client/text.ts";
import { ExplainResponse, type ExplainRequest } from "../gen/storagenode/v1/storage_node.ts";
import { isUuid } from "../model/identity.ts";
import { explanationText } from "./explanation-text.ts";

const USAGE = `usage: storage-node explain volume|disk ID [--address HOST:PORT] [--output text|json]

  Asks the running agent six questions about the volume or the disk, and prints what was seen, what is
  in the way, what to do about it, and what the agent does next. Changes nothing.

  --address HOST:PORT   the agent's API (STORAGE_NODE_LISTEN, or 127.0.0.1:50051)
  --output json         the answer as protobuf JSON
  --help`;

const EXIT_USAGE = 64;
const EXIT_FAILED = 1;

type Asked = {
  readonly kind: "asked";
  readonly target: NonNullable<ExplainRequest["target"]>;
  readonly address: string;
  readonly json: boolean;
};

/** 0 once answered, whatever the answer; 1 when the agent refuses or does not answer. */
export async function explain(args: readonly string[], io: Io): Promise<number> {
  const asked = parse(args, io.env);
  switch (asked.kind) {
    case "help":
      io.stdout(USAGE);
      return 0;
    case "wrong":
      io.stderr(`${asked.why}\n\n${USAGE}`);
      return EXIT_USAGE;
    case "asked":
      return await answer(asked, io);
  }
}

async function answer(asked: Asked, io: Io): Promise<number> {
  using agent = new AgentClient(asked.address);
  try {
    const said = await agent.explain({ target: asked.target });
    io.stdout(asked.json ? jsonOf(said) : explanationText(said, viewOf(asked, io)));
    return 0;
  } catch (error) {
    if (!(error instanceof AgentFault)) throw error;
    io.stderr(`storage-node explain: ${error.message}`);
    return EXIT_FAILED;
  }
}

type Parsed = Asked | { readonly kind: "help" } | { readonly kind: "wrong"; readonly why: string };

function parse(args: readonly string[], env: Io["env"]): Parsed {
  const wrong = (why: string): Parsed => ({ kind: "wrong", why });
  const options = {
    address: { type: "string" },
    output: { type: "string" },
    help: { type: "boolean" },
  } as const;
  try {
    const { values, positionals } = parseArgs({
      args: [...args],
      options,
      allowPositionals: true,
    });
    if (values.help === true) return { kind: "help" };
    const [kind, id, ...more] = positionals;
    if (kind !== "volume" && kind !== "disk")
      return wrong(`"volume" or "disk" must be named first`);
    if (id === undefined || more.length > 0) return wrong(`one id of a ${kind} must be named`);
    if (!isUuid(id)) return wrong(`"${id}" is not an id: a UUID in lower case, with dashes`);
    const output = values.output ?? "text";
    if (output !== "text" && output !== "json") return wrong("--output must be text or json");
    return {
      kind: "asked",
      target: { $case: kind === "volume" ? "lvolId" : "diskId", value: id },
      address: values.address ?? agentAddress(env),
      json: output === "json",
    };
  } catch (error) {
    return wrong(error instanceof Error ? error.message : String(error));
  }
}

function viewOf({ address }: Asked, { columns }: Io) {
  return { width: widthOf(columns?.()), address, now: new Date() };
}

function jsonOf(answer: ExplainResponse): string {
  return JSON.stringify(protobufJson()("ExplainResponse", ExplainResponse, answer), undefined, 2);
}
