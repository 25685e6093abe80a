// The format of the local copy: JSON lines, each with everything that is known of one object. The last
// line about an object counts. A last line without its end was being written when the agent or the
// machine died; any other line that cannot be read makes the whole copy useless, as what it took away
// is not known.
import { z } from "zod";

const bigText = z
  .string()
  .regex(/^\d+$/)
  .transform((text) => BigInt(text));

const time = z.iso.datetime().transform((text) => new Date(text));

const targetProcess = z.strictObject({
  mark: z.string(),
  socketMtimeNs: bigText.optional(),
  pid: z.number().optional(),
  clock: z.strictObject({ startTicks: bigText, ticks: bigText, tickRate: bigText }).optional(),
});

const header = z.strictObject({
  version: z.literal(1),
  nodeId: z.string(),
  fleet: z.string(),
  nqnPrefix: z.string(),
  epoch: bigText,
  /** Of the node's row, when the lines before this one were written. */
  revision: bigText,
  /** The node is on hold: nothing may be restored from this copy. */
  hold: z.string().optional(),
  /** The process of the target that was known last. */
  targetProcess: targetProcess.optional(),
  time,
});

const disk = z.strictObject({
  id: z.string(),
  serial: z.string(),
  model: z.string(),
  nsid: z.number(),
  transport: z.enum(["PCIe", "TCP", "RDMA"]),
  address: z.string(),
  controllerName: z.string().optional(),
  storeName: z.string().optional(),
  storeUuid: z.string().optional(),
  sizeBytes: bigText,
  blockSize: z.number(),
  admitted: z.boolean(),
  wanted: z.enum(["take", "inspect", "release"]),
  state: z.string(),
});

const qos = z.strictObject({
  rwIops: bigText,
  rwMibPerSecond: bigText,
  readMibPerSecond: bigText,
  writeMibPerSecond: bigText,
});

const volume = z.strictObject({
  id: z.string(),
  diskId: z.string(),
  nqn: z.string(),
  serialNumber: z.string(),
  modelNumber: z.string(),
  hosts: z.array(z.string()),
  unconfirmedHosts: z.array(z.string()),
  allowAnyHost: z.boolean(),
  /** Rebuilt from its lvol: its export is left as it is. */
  unconfirmed: z.boolean(),
  lvolUuid: z.string().optional(),
  storeUuid: z.string().optional(),
  sizeBytes: bigText,
  promisedBytes: bigText,
  thin: z.boolean(),
  /** Undefined: no limits. */
  qos: qos.optional(),
  exported: z.boolean(),
  /** It does not have the data of its snapshot yet: no host may see it. */
  cloning: z.boolean().default(false),
  /** An lvol that has its name is not its own. */
  nameTaken: z.boolean(),
  /** Its lvol may have been made and lost: none is made. */
  maybeMade: z.boolean(),
  /** Its export is not restored: the lvol may be about to be deleted. */
  deleteRequested: time.optional(),
});

const line = z.union([
  z.strictObject({ header }),
  z.strictObject({ disk }),
  z.strictObject({ volume }),
  z.strictObject({ removed: z.string() }),
]);

export type CopyHeader = z.output<typeof header>;
export type CopiedDisk = z.output<typeof disk>;
export type CopiedVolume = z.output<typeof volume>;
export type CopyLine = z.output<typeof line>;

export type Copy = {
  readonly header: CopyHeader;
  readonly disks: readonly CopiedDisk[];
  readonly volumes: readonly CopiedVolume[];
};

/** The copy cannot be used. */
export class CopyDamaged extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "CopyDamaged";
  }
}

/** One line, with its end. */
export function copyLine(content: CopyLine): string {
  return `${JSON.stringify(withTexts(content))}\n`;
}

/** A copy with bigints as text. Faster than a replacer, which is called for every value. */
function withTexts(value: object): object {
  const entries = Object.entries(value).map(([key, part]: [string, unknown]) => {
    if (typeof part === "bigint") return [key, part.toString()];
    const isNested = typeof part === "object" && part !== null && !Array.isArray(part);
    return [key, isNested && !(part instanceof Date) ? withTexts(part) : part];
  });
  return Object.fromEntries(entries);
}

/** The part of a text that was written completely. */
export function completeLines(text: string): string {
  return text.slice(0, text.lastIndexOf("\n") + 1);
}

/** What a text says; undefined if it says nothing yet. Throws CopyDamaged. */
export function parseCopy(text: string): Copy | undefined {
  let head: CopyHeader | undefined;
  const disks = new Map<string, CopiedDisk>();
  const volumes = new Map<string, CopiedVolume>();
  for (const [index, content] of completeLines(text).split("\n").slice(0, -1).entries()) {
    const said = parseLine(content, index + 1);
    if ("header" in said) head = said.header;
    else if (head === undefined) throw new CopyDamaged("line 1 is not its header");
    else if ("disk" in said) disks.set(said.disk.id, said.disk);
    else if ("volume" in said) volumes.set(said.volume.id, said.volume);
    else if (!volumes.delete(said.removed)) disks.delete(said.removed);
  }
  return head && { header: head, disks: [...disks.values()], volumes: [...volumes.values()] };
}

function parseLine(text: string, number: number): CopyLine {
  try {
    return line.parse(JSON.parse(text));
  } catch (cause) {
    throw new CopyDamaged(`line ${number} cannot be read`, { cause });
  }
}
