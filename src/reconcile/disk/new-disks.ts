// Rows of local disks that have none: those that the kernel shows, and those that only the target has. A drive
// that came from another node of the fleet has a row, which is taken over if that node has released it.
import type { Logger } from "pino";
import type { Config } from "../../config.ts";
import { newDiskRow } from "../../model/disk.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Rows } from "../../store/rows.ts";
import type { Writer } from "../../store/writer.ts";
import type { NvmeFunction } from "../../sysfs/nvme.ts";
import type { Sightings } from "../controller/places.ts";
import type { FoundDisk } from "../target/disks-on-target.ts";
import type { Observed } from "../target/observed.ts";
import { ELSEWHERE_MS } from "../../limits.ts";

export type NewDisksOptions = {
  readonly config: Pick<Config, "nodeId">;
  readonly rows: Rows;
  readonly writer: Pick<Writer, "insertDisk">;
  readonly observed: Observed;
  readonly log: Logger;
  readonly writeMode: () => WriteMode;
};

export class NewDisks {
  readonly #options: NewDisksOptions;
  /** Disks whose rows are those of other nodes, and when each was last tried for. */
  readonly #elsewhere = new Map<string, number>();

  constructor(options: NewDisksOptions) {
    this.#options = options;
  }

  /** Its row is that of another node, which has not released it. */
  isElsewhere(id: string): boolean {
    return this.#elsewhere.has(id);
  }

  get #mayInsert(): boolean {
    const { rows, writeMode } = this.#options;
    return rows.node !== undefined && writeMode() === "read-write";
  }

  /** Inserts rows of namespaces that the kernel's driver shows. */
  async insertSeen({ byDisk }: Sightings): Promise<void> {
    if (!this.#mayInsert) return;
    for (const id of this.#elsewhere.keys()) if (!byDisk.has(id)) this.#elsewhere.delete(id);
    await Promise.all(
      [...byDisk].map(async ([id, [sighting]]) => {
        if (sighting === undefined || !this.#isDue(id)) return;
        const { address, namespace } = sighting;
        const { serial, model, nsid, sizeBytes, blockSizeBytes: blockSize } = namespace;
        const { kernelName, nguid, eui64 } = namespace;
        const facts = { serial, model, nsid, sizeBytes, blockSize, kernelName, nguid, eui64 };
        await this.#insert(id, { ...facts, transport: "PCIe", address, driver: "nvme" });
      }),
    );
  }

  /** Inserts rows of namespaces on the target, at functions of this machine. */
  async insertFound(
    found: readonly FoundDisk[],
    functions: readonly NvmeFunction[],
  ): Promise<void> {
    if (!this.#mayInsert) return;
    const addresses = new Set(functions.map(({ pciAddress }) => pciAddress));
    for (const disk of found) {
      const { id, serial, model, nsid, sizeBytes, blockSize, address, controllerName } = disk;
      if (disk.trtype !== "PCIe" || !addresses.has(address) || !this.#isDue(id)) continue;
      const facts = { serial, model, nsid, sizeBytes, blockSize, address, controllerName };
      if (await this.#insert(id, { ...facts, transport: "PCIe" })) {
        this.#options.observed.setDisk(id, disk);
      }
    }
  }

  #isDue(id: string): boolean {
    if (this.#options.rows.disk(id) !== undefined) return false;
    const triedMs = this.#elsewhere.get(id);
    return triedMs === undefined || performance.now() - triedMs >= ELSEWHERE_MS;
  }

  async #insert(id: string, disk: Parameters<typeof newDiskRow>[1]): Promise<boolean> {
    const { writer, config, log } = this.#options;
    const { serial, model, address } = disk;
    const isOurs = await writer.insertDisk(newDiskRow(config.nodeId, disk, new Date()));
    if (isOurs) {
      this.#elsewhere.delete(id);
      log.info({ disk: id, serial, model, address }, "new disk found");
    } else {
      if (!this.#elsewhere.has(id)) {
        log.warn({ disk: id, serial, address }, "the row of this disk is that of another node");
      }
      this.#elsewhere.set(id, performance.now());
    }
    return isOurs;
  }
}
