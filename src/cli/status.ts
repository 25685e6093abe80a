// `storage-node status`: the node on one screen, as the running agent sees it.
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import type { Io } from "./cli.ts";
import { AgentClient, agentAddress, AgentFault } from "./client/agent-client.ts";
import { protobufJson } from "./client/protobuf-json.ts";
import { Disk } from "../gen/storagenode/v1/disk.ts";
import { GetHealthResponse, GetNodeResponse } from "../gen/storagenode/v1/storage_node.ts";
import { statusScreen, type NodeStatus } from "./status-screen.ts";

const USAGE = `usage: storage-node status [--watch] [--address HOST:PORT] [--output text|json]

  Asks the running agent how its node is: its parts, capacity, volumes by state, disks, loops, and what
  fails. Changes nothing.

  --watch               again every 2 s, until Ctrl-C
  --address HOST:PORT   the agent's API (STORAGE_NODE_LISTEN, or 127.0.0.1:50051)
  --output json         GetNode, GetHealth and ListDisks as protobuf JSON; with --watch one line each time
  --help`;

const EXIT_USAGE = 64;
const EXIT_FAILED = 1;
const WATCH_MS = 2_000;
/** Home, and clear: the next screen is drawn over the last one. */
const CLEAR = "\u001B[H\u001B[2J";

type Asked = {
  readonly kind: "asked";
  readonly address: string;
  readonly watch: boolean;
  readonly json: boolean;
};

/** 0 once answered, or stopped by the signal while watching; 1 when the agent does not answer. */
export async function status(args: readonly string[], io: Io): Promise<number> {
  const asked = parse(args, io.env);
  switch (asked.kind) {
    case "help":
      io.stdout(USAGE);
      return 0;
    case "wrong":
      io.stderr(`${asked.why}\n\n${USAGE}`);
      return EXIT_USAGE;
    case "asked": {
      using agent = new AgentClient(asked.address);
      return asked.watch ? await watch(agent, asked, io) : await once(agent, asked, io);
    }
  }
}

async function once(agent: AgentClient, asked: Asked, io: Io): Promise<number> {
  try {
    io.stdout(told(await read(agent), asked, io));
    return 0;
  } catch (error) {
    if (!(error instanceof AgentFault)) throw error;
    io.stderr(`storage-node status: ${error.message}`);
    return EXIT_FAILED;
  }
}

/** An agent that does not answer is news too: it is told, and asked again. */
async function watch(agent: AgentClient, asked: Asked, io: Io): Promise<number> {
  const { signal, columns } = io;
  while (!signal.aborted) {
    const screen = await read(agent).then(
      (node) => told(node, asked, io),
      (error: unknown) => {
        if (error instanceof AgentFault) return `${new Date().toISOString()}  ${error.message}`;
        throw error;
      },
    );
    io.stdout(columns?.() === undefined || asked.json ? screen : `${CLEAR}${screen}`);
    await sleep(WATCH_MS, undefined, { signal }).catch(() => undefined);
  }
  return 0;
}

async function read(agent: AgentClient): Promise<NodeStatus> {
  const [node, health, disks] = await Promise.all([
    agent.getNode(),
    agent.getHealth(),
    // Refused until the rows were read; the parts say why, so the rest of the screen is shown.
    agent.listDisks().catch((error: unknown) => {
      if (error instanceof AgentFault && error.refused) return [];
      throw error;
    }),
  ]);
  return { node, health, disks };
}

function told(status: NodeStatus, { address, json, watch }: Asked, { columns }: Io): string {
  if (!json) return statusScreen(status, { address, columns: columns?.(), now: new Date() });
  const toJson = protobufJson();
  const value = {
    node: toJson("GetNodeResponse", GetNodeResponse, status.node),
    health: toJson("GetHealthResponse", GetHealthResponse, status.health),
    disks: status.disks.map((disk) => toJson("Disk", Disk, disk)),
  };
  return JSON.stringify(value, undefined, watch ? undefined : 2);
}

type Parsed = Asked | { readonly kind: "help" } | { readonly kind: "wrong"; readonly why: string };

function parse(args: readonly string[], env: Io["env"]): Parsed {
  const options = {
    watch: { type: "boolean" },
    address: { type: "string" },
    output: { type: "string" },
    help: { type: "boolean" },
  } as const;
  try {
    const { values } = parseArgs({ args: [...args], options, allowPositionals: false });
    if (values.help === true) return { kind: "help" };
    const output = values.output ?? "text";
    if (output !== "text" && output !== "json") {
      return { kind: "wrong", why: "--output must be text or json" };
    }
    return {
      kind: "asked",
      address: values.address ?? agentAddress(env),
      watch: values.watch === true,
      json: output === "json",
    };
  } catch (error) {
    return { kind: "wrong", why: error instanceof Error ? error.message : String(error) };
  }
}
