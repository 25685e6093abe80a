// Attaches the disks of STORAGE_NODE_FABRIC_DISKS that have no row yet, and inserts their rows. A
// disk's id contains its model, which only the target can read, so the first attach happens before
// there is a row; later attaches are steps of disk-init.
//
// It never inserts a disk whose serial differs from its entry: that disk is detached, unless this node uses it.
import type { Logger } from "pino";
import type { Config } from "../../config.ts";
import type { FabricDisk } from "../../config-disks.ts";
import { newDiskRow, type DiskRow } from "../../model/disk.ts";
import { addressFamily } from "../../model/address.ts";
import { assertedAs } from "./discover.ts";
import { disksOn } from "./exports-left.ts";
import { controllerName, diskId } from "../../model/identity.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { NvmeBdev } from "../../spdk/replies-bdev.ts";
import type { WriteMode } from "../../store/fence.ts";
import type { Rows } from "../../store/rows.ts";
import type { Writer } from "../../store/writer.ts";
import type { FoundDisk } from "../target/disks-on-target.ts";
import type { Lanes } from "../engine/lanes.ts";
import type { Observed } from "../target/observed.ts";
import { FABRIC_RETRY_MS } from "../../limits.ts";

export type FabricDisksOptions = {
  readonly config: Pick<Config, "fabricDisks" | "nodeId">;
  readonly rows: Rows;
  readonly writer: Pick<Writer, "insertDisk">;
  readonly spdk: Pick<
    SpdkClient,
    "bdevNvmeAttachController" | "bdevNvmeDetachController" | "getBdev"
  >;
  readonly observed: Observed;
  readonly lanes: Lanes;
  readonly log: Logger;
  readonly writeMode: () => WriteMode;
  readonly list: () => Promise<readonly FoundDisk[]>;
  /** Scans the disks on the target again, which ends with a call of `ensureAttached`. */
  readonly rescan: () => Promise<void>;
  readonly admit: (id: string) => Promise<void>;
};

export class FabricDisks {
  readonly #options: FabricDisksOptions;
  #timer: NodeJS.Timeout | undefined;
  #attaching = false;
  #stopped = false;

  constructor(options: FabricDisksOptions) {
    this.#options = options;
  }

  /** The configuration entry of a disk, matched by serial and nsid. */
  entryOf(row: DiskRow): FabricDisk | undefined {
    if (row.transport === "PCIe") return undefined;
    return this.#options.config.fabricDisks.find((entry) => isEntry(entry, row));
  }

  /** Attaches entries that have no row and are not in `found`, inserts their rows, and admits. */
  async ensureAttached(found: readonly FoundDisk[]): Promise<void> {
    // One run at a time: a second one would attach the same entries again.
    const { rows, writeMode } = this.#options;
    if (this.#attaching || rows.node === undefined || writeMode() !== "read-write") return;
    this.#attaching = true;
    try {
      const unseen = this.#withoutRow().filter(
        (entry) => !found.some((disk) => isEntry(entry, disk)),
      );
      const attached = await Promise.all(unseen.map((entry) => this.#attach(entry)));
      const all = attached.includes(true) ? await this.#options.list() : found;
      await Promise.all(
        this.#withoutRow().map(async (entry) => {
          const disk = all.find((candidate) => isEntry(entry, candidate));
          if (disk !== undefined) await this.#insert(entry, disk);
        }),
      );
      if (writeMode() !== "read-write") this.#retry();
      else await this.admitKnown();
    } catch (error) {
      // Rows that were not inserted and disks that were not admitted are tried again.
      this.#retry();
      throw error;
    } finally {
      this.#attaching = false;
    }
    if (this.#withoutRow().length > 0) this.#retry();
  }

  /**
   * Admits fabric disks that have a row and are not admitted, e.g. because the agent that inserted
   * the row ended before it admitted the disk; and takes over what an entry asserts of its disk.
   */
  async admitKnown(): Promise<void> {
    const { rows, admit } = this.#options;
    const known = [...rows.disks()].filter((row) => this.entryOf(row) !== undefined);
    await Promise.all(
      known
        .filter((row) => !row.admitted || !assertedAs(row, this.entryOf(row)))
        .map(({ id }) => admit(id)),
    );
  }

  #withoutRow(): readonly FabricDisk[] {
    const rows = [...this.#options.rows.disks()];
    return this.#options.config.fabricDisks.filter(
      (entry) => !rows.some((row) => isEntry(entry, row)),
    );
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  async #insert(entry: FabricDisk, disk: FoundDisk): Promise<void> {
    const { writer, config, observed, log } = this.#options;
    const { serial, model, nsid, sizeBytes, blockSize } = disk;
    const row = newDiskRow(
      config.nodeId,
      {
        serial,
        model,
        nsid,
        sizeBytes,
        blockSize,
        transport: entry.trtype,
        address: `${entry.traddr}:${entry.trsvcid}`,
        controllerName: disk.controllerName,
      },
      new Date(),
    );
    await writer.insertDisk(row);
    log.info({ disk: row.id, serial, model, subnqn: entry.subnqn }, "new fabric disk found");
    observed.setDisk(row.id, disk);
  }

  /** Resolves to whether the disk is attached and has the serial of its entry. */
  async #attach(entry: FabricDisk): Promise<boolean> {
    const { spdk, lanes, log } = this.#options;
    const name = controllerName(entry);
    const { trtype, traddr, trsvcid, subnqn, serial, nsid } = entry;
    const adrfam = addressFamily(traddr);
    try {
      await lanes.run([{ kind: "disk", disk: name, mode: "exclusive" }], () =>
        spdk.bdevNvmeAttachController({ name, trtype, traddr, trsvcid, subnqn, adrfam }),
      );
      const bdev = await spdk.getBdev(`${name}n${nsid}`);
      const path = bdev?.kind === "nvme" ? bdev.paths[0] : undefined;
      const shown = path?.serialNumber.trim();
      if (shown === serial) return true;
      log.error({ serial, shown, subnqn }, "fabric disk has another serial than its entry");
      await this.#detachOther(name, path);
    } catch (error) {
      log.warn({ err: error, serial, subnqn }, "cannot attach fabric disk");
    }
    return false;
  }

  /** What has the address of an entry is detached, unless it is a disk of this node that is to be used. */
  async #detachOther(name: string, path: NvmeBdev["paths"][number] | undefined): Promise<void> {
    const { spdk, lanes, rows } = this.#options;
    const { serialNumber = "", modelNumber = "", nsid = 0 } = path ?? {};
    const shown = diskId({ serial: serialNumber.trim(), model: modelNumber.trim(), nsid });
    const disks = new Set([name, shown, ...disksOn(this.#options, name).map(({ id }) => id)]);
    const keys = [...disks].map((disk) => ({ kind: "disk", disk, mode: "exclusive" }) as const);
    await lanes.run(keys, async () => {
      const rowsThere = [...disks].flatMap((id) => rows.disk(id) ?? []);
      if (rowsThere.some((row) => row.wanted !== "release" && row.lvsUuid !== undefined)) return;
      await spdk.bdevNvmeDetachController(name);
    });
  }

  #retry(): void {
    if (this.#stopped || this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#stopped || this.#options.observed.incarnation === undefined) return;
      this.#options
        .rescan()
        .catch((error: unknown) =>
          this.#options.log.warn({ err: error }, "cannot list the disks on the SPDK target"),
        );
    }, FABRIC_RETRY_MS);
    this.#timer.unref();
  }
}

function isEntry(
  entry: FabricDisk,
  disk: { readonly serial: string; readonly nsid: number },
): boolean {
  return entry.serial === disk.serial && entry.nsid === disk.nsid;
}
