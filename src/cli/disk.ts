// `storage-node disk`: the disks of a running agent, one action for each RPC. What an action needs to know of the
// disk beside its id (its serial, what is on it) is read first, unless it is given.
import type { Duration } from "../gen/google/protobuf/duration.ts";
import type { Disk, DiskStatus } from "../gen/storagenode/v1/disk.ts";
import { GetDiskResponse, LocateDiskResponse } from "../gen/storagenode/v1/storage_node.ts";
import { formatBytes } from "../model/bytes.ts";
import { isUuid } from "../model/identity.ts";
import { wipeConfirmation } from "../model/wipe.ts";
import {
  CommandFault,
  runAgentCommand,
  UsageFault,
  type AgentCommand,
  type AgentOptions,
} from "./agent-command.ts";
import { ADDRESS_OPTIONS } from "./client/agent-address.ts";
import { AgentFault, type AgentClient } from "./client/agent-client.ts";
import { protobufJson, type Encodes } from "./client/protobuf-json.ts";
import { widthOf } from "./client/text.ts";
import { adopt } from "./disk-adopt.ts";
import { listDisks } from "./disk-list.ts";
import { diskLine, diskText, evidenceLines, stateOf } from "./disk-text.ts";
import type { Io } from "./io.ts";
import { waitOption } from "./wait-option.ts";

const USAGE = `usage: storage-node disk list
       storage-node disk show ID
       storage-node disk cordon ID --reason TEXT
       storage-node disk uncordon ID
       storage-node disk locate ID on|off
       storage-node disk release ID [--force --reason TEXT] [--wait SECONDS]
       storage-node disk wipe ID --reason TEXT [--confirm TEXT --fingerprint HEX] [--wait SECONDS]
       storage-node disk adopt ID [--store UUID] [--wait SECONDS]
       storage-node disk admit ID [--fingerprint HEX] [--discard-zeroes] [--wait SECONDS]
       storage-node disk admit ADDRESS [--serial SERIAL]

  Each action is one call of the running agent. list: all disks, and the drives that show none. show: all that is
  known of one. cordon: it takes no new volumes. locate: the LED of its slot. release: it goes back to its kernel
  driver, with what is on it. wipe: what is on it is destroyed; shows that, and asks. adopt: lists what lies in a store
  of somebody else, and makes the store of that uuid one of this node. admit: the agent may use it; a drive that is on
  vfio-pci already, by its PCI address, goes back to its kernel driver and is looked at first.

  --serial SERIAL       refuse unless the disk has this one; default: that which it shows
  --force               release: although volumes are on it; needs a reason
  --reason TEXT         kept in the events of the disk
  --confirm TEXT        wipe: "destroy all data on SERIAL", instead of being asked; needs --fingerprint
  --fingerprint HEX     only if what is on the disk is what "disk show" has shown with this fingerprint
  --discard-zeroes      admit: assert that blocks which hosts discard read as zeros
  --wait SECONDS        wait until it is done; exit code 1 if it is not by then`;

/** Of each action: the options that it takes, beside those for the address and the output. */
const OPTIONS = {
  list: [],
  show: [],
  cordon: ["reason"],
  uncordon: [],
  locate: [],
  release: ["serial", "force", "reason", "wait"],
  wipe: ["serial", "reason", "confirm", "fingerprint", "wait"],
  adopt: ["serial", "store", "wait"],
  admit: ["serial", "fingerprint", "discard-zeroes", "wait"],
} as const;

/** Of a drive that shows no disk: it has no id. */
const PCI_ADDRESS = /^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/;

type Action = keyof typeof OPTIONS;

type Asked = {
  readonly action: Action;
  /** Empty: of all disks. */
  readonly diskId: string;
  readonly on: boolean;
  readonly serial: string | undefined;
  readonly force: boolean;
  readonly reason: string;
  readonly confirm: string | undefined;
  readonly fingerprint: string | undefined;
  readonly discardZeroes: boolean;
  readonly store: string | undefined;
  readonly wait: Duration | undefined;
};

const COMMAND: AgentCommand<Asked> = {
  name: "disk",
  usage: USAGE,
  json: "the answer as protobuf JSON",
  options: {
    serial: { type: "string" },
    force: { type: "boolean" },
    reason: { type: "string" },
    confirm: { type: "string" },
    fingerprint: { type: "string" },
    "discard-zeroes": { type: "boolean" },
    store: { type: "string" },
    wait: { type: "string" },
  },
  read,
  run,
};

/** Exit code 0 if the agent has accepted what was asked, with --wait once it is done. */
export async function disk(args: readonly string[], io: Io): Promise<number> {
  return await runAgentCommand(COMMAND, args, io);
}

const COMMON: readonly string[] = ["output", "help", ...Object.keys(ADDRESS_OPTIONS)];

function read(
  values: Readonly<Record<string, unknown>>,
  [word, id, ...rest]: readonly string[],
): Asked {
  const action = actions().find((name) => name === word);
  if (action === undefined) {
    throw new UsageFault(`the first argument must be one of ${actions().join(", ")}`);
  }
  const taken: readonly string[] = [...OPTIONS[action], ...COMMON];
  const extra = Object.keys(values).find((name) => !taken.includes(name));
  if (extra !== undefined) throw new UsageFault(`--${extra} is no option of "disk ${action}"`);
  const text = (name: string) => {
    const value = values[name];
    return typeof value === "string" ? value : undefined;
  };
  const asked = {
    action,
    diskId: idOf(action, id),
    on: onOf(action, rest),
    serial: text("serial"),
    force: values["force"] === true,
    reason: text("reason") ?? "",
    confirm: text("confirm"),
    fingerprint: text("fingerprint"),
    discardZeroes: values["discard-zeroes"] === true,
    store: text("store"),
    wait: waitOption(values["wait"]),
  };
  const needsReason = action === "wipe" || action === "cordon" || asked.force;
  if (needsReason && asked.reason === "") throw new UsageFault("--reason must be given");
  if (asked.confirm !== undefined && asked.fingerprint === undefined) {
    throw new UsageFault('--confirm needs --fingerprint, as "disk show" prints it');
  }
  return asked;
}

function actions(): readonly Action[] {
  return Object.keys(OPTIONS).filter((name): name is Action => name in OPTIONS);
}

function idOf(action: Action, id: string | undefined): string {
  if (action === "list") {
    if (id !== undefined) throw new UsageFault(`"${id}" is not an argument of "disk list"`);
    return "";
  }
  if (id === undefined) throw new UsageFault(`"disk ${action}" needs the id of a disk`);
  if (isUuid(id) || (action === "admit" && PCI_ADDRESS.test(id))) return id;
  throw new UsageFault(`"${id}" is not an id: expected a UUID in lower case with dashes`);
}

function onOf(action: Action, [word, ...more]: readonly string[]): boolean {
  if (action === "locate") {
    if ((word === "on" || word === "off") && more.length === 0) return word === "on";
    throw new UsageFault('"disk locate ID" needs on or off');
  }
  if (word !== undefined) throw new UsageFault(`"${word}" is not an argument of "disk ${action}"`);
  return false;
}

type Run = Asked & AgentOptions;

async function run(agent: AgentClient, asked: Run, io: Io): Promise<void> {
  const { action, diskId, reason, json } = asked;
  const { stdout } = io;
  switch (action) {
    case "list":
      return await listDisks(agent, json, io);
    case "show": {
      const found = await agent.getDisk({ diskId });
      if (json) stdout(jsonOf("GetDiskResponse", GetDiskResponse, found));
      else if (found.disk !== undefined) stdout(diskText(found.disk, widthOf(io.columns?.())));
      return;
    }
    case "cordon":
    case "uncordon":
      if (action === "cordon") await agent.cordon({ diskId, reason });
      else await agent.uncordon({ diskId });
      print((await agent.getDisk({ diskId })).disk, asked, io);
      return;
    case "locate": {
      const answer = await agent.locateDisk({ diskId, on: asked.on });
      const { kind, address, on } = answer;
      const said = `the LED of ${address} is ${on ? "on" : "off"} (${kind})`;
      stdout(json ? jsonOf("LocateDiskResponse", LocateDiskResponse, answer) : said);
      return;
    }
    case "adopt":
      return await adopt(agent, asked, io);
    case "release":
    case "wipe":
    case "admit":
      if (action === "admit" && PCI_ADDRESS.test(diskId)) {
        return await admitAddress(agent, asked, io);
      }
      await change(agent, { ...asked, action }, io);
  }
}

/** Of a drive that nobody can identify yet; it becomes a disk, which has an id, once its kernel driver has it. */
async function admitAddress(agent: AgentClient, asked: Run, io: Io): Promise<void> {
  const { diskId: address, serial = "", discardZeroes, wait: waitTimeout } = asked;
  const evidenceFingerprint = asked.fingerprint ?? "";
  const more = { evidenceFingerprint, discardZeroes, waitTimeout };
  const { disk: found } = await agent.admitDisk({ diskId: "", serial, address, ...more });
  if (found !== undefined) return print(found, asked, io);
  io.stdout(`${address} goes back to its kernel driver; "disk list" shows what is on it`);
}

type Change = Run & { readonly action: "release" | "wipe" | "admit" };

/** Whether what was asked for is done. */
const IS_DONE: Readonly<Record<Change["action"], (status: DiskStatus) => boolean>> = {
  release: (status) => stateOf(status) === "RELEASED",
  wipe: ({ conditions }) => !conditions.some(({ type }) => type === "Wiped"),
  admit: (status) => stateOf(status) === "UP",
};

async function change(agent: AgentClient, asked: Change, io: Io): Promise<void> {
  const { action, diskId, force, reason, discardZeroes, wait: waitTimeout } = asked;
  const { disk: before } = await agent.getDisk({ diskId });
  const status = before?.status;
  if (status === undefined) throw new CommandFault(`the agent shows nothing of disk ${diskId}`);
  const { serial = status.serial } = asked;
  const request = { diskId, serial, waitTimeout };
  let answer: { readonly disk?: Disk | undefined };
  switch (action) {
    case "release":
      answer = await agent.releaseDisk({ ...request, force, reason });
      break;
    case "wipe": {
      const { fingerprint: evidenceFingerprint = status.evidenceFingerprint } = asked;
      const confirmation = asked.confirm ?? (await confirmed(status, serial, io));
      answer = await agent.wipeDisk({ ...request, reason, confirmation, evidenceFingerprint });
      break;
    }
    case "admit": {
      const { fingerprint: evidenceFingerprint = "" } = asked;
      const more = { address: "", evidenceFingerprint, discardZeroes };
      answer = await explained(agent.admitDisk({ ...request, ...more }), diskId);
      break;
    }
  }
  print(answer.disk, asked, io);
  const after = answer.disk?.status;
  const isDone = after !== undefined && IS_DONE[action](after);
  if (waitTimeout !== undefined && !isDone) {
    const where = `"storage-node explain disk ${diskId}" says what it waits for`;
    throw new CommandFault(`${action} is not done yet: ${where}`);
  }
}

/** A refusal lists what speaks against the disk; what to do about that, Explain says. */
async function explained<Answer>(asked: Promise<Answer>, diskId: string): Promise<Answer> {
  try {
    return await asked;
  } catch (error) {
    if (!(error instanceof AgentFault && error.refused)) throw error;
    const where = `"storage-node explain disk ${diskId}" says what to do`;
    throw new CommandFault(`${error.message}\n${where}`);
  }
}

/** Shows what is on the disk, and has the operator write what becomes of it. */
async function confirmed(status: DiskStatus, serial: string, io: Io): Promise<string> {
  const { ask, stdout } = io;
  if (ask === undefined) {
    throw new CommandFault("there is no terminal to ask on: use --confirm and --fingerprint");
  }
  const text = wipeConfirmation(serial);
  const lines = evidenceLines(status);
  stdout(`${serial}, ${status.model}, ${formatBytes(status.sizeBytes)}, at ${status.address}:`);
  stdout(lines.length === 0 ? `nothing is known to be on ${serial}` : lines.join("\n"));
  const answer = await ask(`this is lost for good; to go on, type: ${text}\n`);
  if (answer.trim() !== text) throw new CommandFault("nothing was wiped");
  return text;
}

function print(found: Disk | undefined, { json }: Pick<Run, "json">, { stdout }: Io): void {
  if (found === undefined) return;
  stdout(json ? jsonOf("GetDiskResponse", GetDiskResponse, { disk: found }) : diskLine(found));
}

function jsonOf<Message>(name: string, type: Encodes<Message>, message: Message): string {
  return JSON.stringify(protobufJson()(name, type, message), undefined, 2);
}
