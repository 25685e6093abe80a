// `storage-node confirm-hosts`: lets hosts of volumes connect again whose rows come from a database that
// is older than what the node remembers.
import { readFileSync } from "node:fs";
import {
  CommandFault,
  runAgentCommand,
  UsageFault,
  type AgentCommand,
  type AgentOptions,
} from "./agent-command.ts";
import type { AgentClient } from "./client/agent-client.ts";
import { messageOf, type Io } from "./io.ts";
import type { Export } from "../gen/storagenode/v1/export.ts";
import { ConfirmHostsRequest } from "../gen/storagenode/v1/storage_node.ts";
import { MAX_CONFIRMATIONS, MAX_MESSAGE_BYTES } from "../limits.ts";
import { isUuid } from "../model/identity.ts";
import { ANY_HOST } from "../model/lvol.ts";

const USAGE = `usage: storage-node confirm-hosts (--file FILE | --all) [--yes] [--reason TEXT]
                                  [ADDRESS] [--output text|json]

  After a database was restored from a backup and its hold ended, no host may connect to a volume of
  that database before it is confirmed: it may have been revoked since. This confirms hosts, by a call
  of ConfirmHosts for each 1,000 volumes or 2 MiB.

  --file FILE           one "LVOL_ID HOST_NQN" on each line; "LVOL_ID *" confirms that any host may connect
  --all                 every unconfirmed host of every volume; lists them and asks for the word yes
  --yes                 do not ask
  --reason TEXT         kept in the agent's log`;

type Confirmation = { readonly lvolId: string; readonly hostNqns: string[] };

type Wanted = {
  /** Undefined: all. */
  readonly confirmations: readonly Confirmation[] | undefined;
  readonly yes: boolean;
  readonly reason: string;
};

const COMMAND: AgentCommand<Wanted> = {
  name: "confirm-hosts",
  usage: USAGE,
  json: '{"confirmed": N, "unconfirmed": N}',
  options: {
    file: { type: "string" },
    all: { type: "boolean" },
    yes: { type: "boolean" },
    reason: { type: "string" },
  },
  read: ({ file, all, yes, reason }, positionals) => {
    const [extra] = positionals;
    if (extra !== undefined) throw new UsageFault(`"${extra}" is not an argument of confirm-hosts`);
    if ((typeof file === "string") === (all === true)) {
      throw new UsageFault("one of --file and --all must be given");
    }
    return {
      confirmations: typeof file === "string" ? readConfirmations(file) : undefined,
      yes: yes === true,
      reason: typeof reason === "string" ? reason : "storage-node confirm-hosts",
    };
  },
  run: confirm,
};

/** Exit code 0 once all are confirmed; those of earlier calls stay confirmed if a later one fails. */
export async function confirmHosts(args: readonly string[], io: Io): Promise<number> {
  return await runAgentCommand(COMMAND, args, io);
}

async function confirm(
  agent: AgentClient,
  { confirmations, yes, reason, json }: Wanted & AgentOptions,
  io: Io,
): Promise<void> {
  const wanted = confirmations ?? (await unconfirmedOf(agent));
  if (confirmations === undefined && !yes && wanted.length > 0) await askFirst(wanted, io);
  let confirmed = 0;
  for (const confirmations of requestsOf(wanted)) {
    confirmed += (await agent.confirmHosts({ confirmations, reason })).confirmed;
  }
  const { unconfirmedHosts: unconfirmed } = await agent.getHealth();
  const text = `confirmed ${confirmed} hosts; ${unconfirmed} are still unconfirmed`;
  io.stdout(json ? JSON.stringify({ confirmed, unconfirmed }) : text);
}

/** As many confirmations in each request as one takes: by number, and by bytes. */
function requestsOf(confirmations: readonly Confirmation[]): readonly Confirmation[][] {
  const requests: Confirmation[][] = [];
  let bytes = 0;
  for (const one of confirmations) {
    const size = ConfirmHostsRequest.encode({ confirmations: [one], reason: "" }).finish().length;
    const last = requests.at(-1);
    const isFull = last?.length === MAX_CONFIRMATIONS || bytes + size > MAX_MESSAGE_BYTES / 2;
    if (last === undefined || isFull) {
      requests.push([one]);
      bytes = size;
    } else {
      last.push(one);
      bytes += size;
    }
  }
  return requests;
}

async function unconfirmedOf(agent: AgentClient): Promise<readonly Confirmation[]> {
  const exports = await agent.listExports();
  return exports
    .map((one) => ({ lvolId: one.lvolId, hostNqns: unconfirmedHosts(one) }))
    .filter(({ hostNqns }) => hostNqns.length > 0);
}

function unconfirmedHosts({ hosts, anyHostUnconfirmed }: Export): string[] {
  const named = hosts.filter(({ unconfirmed }) => unconfirmed).map(({ nqn }) => nqn);
  return anyHostUnconfirmed ? [...named, ANY_HOST] : named;
}

async function askFirst(wanted: readonly Confirmation[], { ask, stdout }: Io): Promise<void> {
  if (ask === undefined) throw new CommandFault("there is no terminal to ask on: use --yes");
  const lines = wanted.flatMap(({ lvolId, hostNqns }) =>
    hostNqns.map((host) => `${lvolId} ${host}`),
  );
  for (const line of lines) stdout(line);
  const answer = await ask(`let these ${lines.length} hosts connect? (yes) `);
  if (answer.trim() !== "yes") throw new CommandFault("nothing was confirmed");
}

/** Throws a UsageFault that names every faulty line. */
function readConfirmations(path: string): readonly Confirmation[] {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new UsageFault(`--file: ${messageOf(error)}`);
  }
  const hosts = new Map<string, string[]>();
  const faults: string[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    const words = line.trim().split(/\s+/);
    const [lvolId = "", host = ""] = words;
    if (lvolId === "") continue;
    if (words.length !== 2 || !isUuid(lvolId)) {
      faults.push(`${path}:${index + 1}: is not "LVOL_ID HOST_NQN"`);
      continue;
    }
    hosts.set(lvolId, [...(hosts.get(lvolId) ?? []), host]);
  }
  if (faults.length > 0) throw new UsageFault(faults.join("\n"));
  return [...hosts].map(([lvolId, hostNqns]) => ({ lvolId, hostNqns }));
}
