// `storage-node status`: the status of the node on one screen, as the running agent reports it.
import { setTimeout as sleep } from "node:timers/promises";
import {
  runAgentCommand,
  UsageFault,
  type AgentCommand,
  type AgentOptions,
} from "./agent-command.ts";
import { AgentFault, type AgentClient } from "./client/agent-client.ts";
import { protobufJson } from "./client/protobuf-json.ts";
import { Disk } from "../gen/storagenode/v1/disk.ts";
import { GetHealthResponse, GetNodeResponse } from "../gen/storagenode/v1/storage_node.ts";
import type { Io } from "./io.ts";
import { statusScreen, type NodeStatus } from "./status-screen.ts";

const USAGE = `usage: storage-node status [--watch] [ADDRESS] [--output text|json]

  Asks the running agent for the status of its node: components, capacity, volumes by state, disks,
  loops, failing objects. Changes nothing.

  --watch               again every 2 s, until Ctrl-C`;

const WATCH_MS = 2_000;
/** ANSI: cursor home, clear screen. */
const CLEAR = "\u001B[H\u001B[2J";

type Asked = AgentOptions & { readonly watch: boolean };

const COMMAND: AgentCommand<{ readonly watch: boolean }> = {
  name: "status",
  usage: USAGE,
  json: "GetNode, GetHealth and ListDisks as protobuf JSON; with --watch one line each time",
  options: { watch: { type: "boolean" } },
  read: ({ watch }, positionals) => {
    const [extra] = positionals;
    if (extra !== undefined) throw new UsageFault(`"${extra}" is not an argument of status`);
    return { watch: watch === true };
  },
  run: async (agent, asked, io) => {
    if (asked.watch) await watchNode(agent, asked, io);
    else io.stdout(textOf(await read(agent), asked, io));
  },
};

/** Exit code 0 if the agent answers, or if the signal ends --watch. */
export async function status(args: readonly string[], io: Io): Promise<number> {
  return await runAgentCommand(COMMAND, args, io);
}

/** Continues if the agent does not answer, because it may be restarting. */
async function watchNode(agent: AgentClient, asked: Asked, io: Io): Promise<void> {
  const { signal, columns } = io;
  while (!signal.aborted) {
    const screen = await read(agent).then(
      (node) => textOf(node, asked, io),
      (error: unknown) => {
        if (error instanceof AgentFault) return `${new Date().toISOString()}  ${error.message}`;
        throw error;
      },
    );
    io.stdout(columns?.() === undefined || asked.json ? screen : `${CLEAR}${screen}`);
    await sleep(WATCH_MS, undefined, { signal }).catch(() => undefined);
  }
}

async function read(agent: AgentClient): Promise<NodeStatus> {
  const [node, health, disks] = await Promise.all([
    agent.getNode(),
    agent.getHealth(),
    // ListDisks is refused until the rows are read. Show the rest: the components give the reason.
    agent.listDisks().catch((error: unknown) => {
      if (error instanceof AgentFault && error.refused) return [];
      throw error;
    }),
  ]);
  return { node, health, disks };
}

function textOf(status: NodeStatus, { at, json, watch }: Asked, { columns }: Io): string {
  if (!json)
    return statusScreen(status, { address: at.shown, columns: columns?.(), now: new Date() });
  const toJson = protobufJson();
  const value = {
    node: toJson("GetNodeResponse", GetNodeResponse, status.node),
    health: toJson("GetHealthResponse", GetHealthResponse, status.health),
    disks: status.disks.map((disk) => toJson("Disk", Disk, disk)),
  };
  return JSON.stringify(value, undefined, watch ? undefined : 2);
}
