// Shared part of the commands that ask a running agent: the options for its address, TLS and the output
// format, and the messages and exit codes when it refuses or does not answer.
import type { ParseArgsOptionsConfig } from "node:util";
import { parseArguments } from "./arguments.ts";
import {
  ADDRESS_OPTIONS,
  ADDRESS_USAGE,
  agentAddress,
  type AgentAddress,
} from "./client/agent-address.ts";
import { AgentClient, AgentFault } from "./client/agent-client.ts";
import { EXIT_FAILED, EXIT_USAGE, messageOf, type Io } from "./io.ts";

export type AgentOptions = {
  readonly at: AgentAddress;
  readonly json: boolean;
};

/** The arguments are wrong; the message says how. */
export class UsageFault extends Error {
  constructor(message: string) {
    super(message);
    this.name = "UsageFault";
  }
}

/** The command ends without having done what it was asked; the message says why. */
export class CommandFault extends Error {
  constructor(message: string) {
    super(message);
    this.name = "CommandFault";
  }
}

export type AgentCommand<Asked> = {
  readonly name: string;
  /** The first lines: which options are the same for all follows. */
  readonly usage: string;
  /** What --output json prints. */
  readonly json: string;
  /** Options beside those for the address, --output and --help. */
  readonly options: ParseArgsOptionsConfig;
  /** Throws UsageFault. */
  readonly read: (
    values: Readonly<Record<string, unknown>>,
    positionals: readonly string[],
  ) => Asked;
  /** May throw AgentFault and CommandFault. */
  readonly run: (agent: AgentClient, asked: Asked & AgentOptions, io: Io) => Promise<void>;
};

/** Exit code 0 if the agent answers, 1 if it refuses or does not answer, 64 for wrong arguments. */
export async function runAgentCommand<Asked>(
  command: AgentCommand<Asked>,
  args: readonly string[],
  io: Io,
): Promise<number> {
  const { name, run } = command;
  const usage = usageOf(command);
  let asked: (Asked & AgentOptions) | "help";
  try {
    asked = parse(command, args, io.env);
  } catch (error) {
    io.stderr(`${messageOf(error)}\n\n${usage}`);
    return EXIT_USAGE;
  }
  if (asked === "help") {
    io.stdout(usage);
    return 0;
  }
  try {
    using agent = new AgentClient(asked.at);
    await run(agent, asked, io);
    return 0;
  } catch (error) {
    if (!(error instanceof AgentFault || error instanceof CommandFault)) throw error;
    io.stderr(`storage-node ${name}: ${error.message}`);
    return EXIT_FAILED;
  }
}

function usageOf({ usage, json }: Pick<AgentCommand<unknown>, "usage" | "json">): string {
  return `${usage}\n${ADDRESS_USAGE}\n  --output json         ${json}\n  --help`;
}

function parse<Asked>(
  { options, read }: AgentCommand<Asked>,
  args: readonly string[],
  env: Io["env"],
): (Asked & AgentOptions) | "help" {
  const { values, positionals } = parseArguments({
    args: [...args],
    allowPositionals: true,
    options: {
      ...options,
      ...ADDRESS_OPTIONS,
      output: { type: "string" },
      help: { type: "boolean" },
    },
  });
  if (values["help"] === true) return "help";
  const asked = read(values, positionals);
  const output = values["output"] ?? "text";
  if (output !== "text" && output !== "json") {
    throw new UsageFault("--output must be text or json");
  }
  return { ...asked, at: agentAddress(values, env), json: output === "json" };
}
