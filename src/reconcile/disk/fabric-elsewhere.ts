// Disks of STORAGE_NODE_FABRIC_DISKS whose rows are those of other nodes, which may have them attached: a second
// target that loads their stores would write to them as well. The rows are asked for before anything is attached;
// those that were released are taken over.
import type { Logger } from "pino";
import type { Config } from "../../config.ts";
import type { FabricDisk } from "../../config-disks.ts";
import { newDiskRow, type DiskRow } from "../../model/disk.ts";
import { controllerName } from "../../model/identity.ts";
import type { Writer } from "../../store/writer.ts";
import { isEntry } from "./fabric-use.ts";

export type FabricElsewhereOptions = {
  readonly config: Pick<Config, "nodeId">;
  readonly writer: Pick<Writer, "insertDisk" | "disksElsewhere">;
  readonly log: Logger;
};

/** What was found of a disk. */
type Facts = Pick<DiskRow, "model" | "sizeBytes" | "blockSize"> &
  Partial<Pick<DiskRow, "controllerName">>;

export class FabricElsewhere {
  readonly #options: FabricElsewhereOptions;
  /** Of each entry whose row is not that of this node, and is not to be had: whose it is. */
  readonly #owners = new Map<FabricDisk, string>();

  constructor(options: FabricElsewhereOptions) {
    this.#options = options;
  }

  /** Why an entry has no row here; undefined: no other node has one. */
  reason(entry: FabricDisk): string | undefined {
    const owner = this.#owners.get(entry);
    return owner && `its row is that of another node (${owner}): call ReleaseDisk there`;
  }

  /** Another disk of the controller is another node's: why it must not be attached here; undefined: none is. */
  reasonOf(name: string): string | undefined {
    const [entry] = [...this.#owners.keys()].filter((one) => controllerName(one) === name);
    return entry && `fabric disk ${entry.serial}/${entry.nsid}: ${this.reason(entry) ?? ""}`;
  }

  /** Looks for the rows of entries that have none here. Throws if the database cannot be reached. */
  async lookUp(entries: readonly FabricDisk[]): Promise<void> {
    for (const entry of this.#owners.keys()) {
      if (!entries.includes(entry)) this.#owners.delete(entry);
    }
    if (entries.length === 0) return;
    const rows = await this.#options.writer.disksElsewhere(entries);
    await Promise.all(
      entries.map(async (entry) => {
        const [row, another] = rows.filter((one) => isEntry(entry, one));
        if (row === undefined) this.#owners.delete(entry);
        else if (another !== undefined || !isReleased(row)) this.#isOf(entry, row.nodeId);
        else if (!(await this.insert(entry, row))) this.#owners.set(entry, row.nodeId);
      }),
    );
  }

  /** Resolves to the row, inserted or taken over; undefined: it is another node's, and stays so. */
  async insert(entry: FabricDisk, facts: Facts): Promise<DiskRow | undefined> {
    const { writer, config, log } = this.#options;
    const { serial, nsid, trtype: transport, traddr, trsvcid, subnqn } = entry;
    const { model, sizeBytes, blockSize, controllerName: name } = facts;
    const address = `${traddr}:${trsvcid}`;
    const shown = { serial, model, nsid, sizeBytes, blockSize, transport, address };
    const row = newDiskRow(config.nodeId, { ...shown, controllerName: name }, new Date());
    if (!(await writer.insertDisk(row))) {
      this.#isOf(entry, "not known which");
      return undefined;
    }
    this.#owners.delete(entry);
    log.info({ disk: row.id, serial, model, subnqn }, "new fabric disk found");
    return row;
  }

  #isOf(entry: FabricDisk, owner: string): void {
    const isNew = !this.#owners.has(entry);
    this.#owners.set(entry, owner);
    const { serial, nsid, subnqn } = entry;
    if (isNew) {
      const message = "the row of a fabric disk is that of another node: it is not attached";
      this.#options.log.warn({ serial, nsid, subnqn, owner }, message);
    }
  }
}

function isReleased({ wanted, state, wipe }: DiskRow): boolean {
  return wanted === "release" && state === "RELEASED" && wipe === undefined;
}
