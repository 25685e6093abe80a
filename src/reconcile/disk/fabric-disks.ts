// Attaches the disks of STORAGE_NODE_FABRIC_DISKS that have no row yet, and inserts their rows. A
// disk's id contains its model, which only the target can read, so the first attach happens before
// there is a row; later attaches are steps of disk-init.
//
// It never inserts a disk whose serial differs from its entry: its controller is detached, unless this node needs it.
import type { Logger } from "pino";
import type { Config } from "../../config.ts";
import type { FabricDisk } from "../../config-disks.ts";
import { newDiskRow, type DiskRow } from "../../model/disk.ts";
import { addressFamily } from "../../model/address.ts";
import { assertedAs } from "./discover.ts";
import { entryOf, isEntry, keptOnFabric, lanesOn } from "./fabric-use.ts";
import { controllerName } from "../../model/identity.ts";
import type { PendingContext } from "../../model/pending-op.ts";
import type { SpdkClient } from "../../spdk/client.ts";
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
  readonly spdk: Pick<SpdkClient, "bdevNvmeAttachController" | "bdevNvmeDetachController">;
  readonly observed: Observed;
  readonly lanes: Lanes;
  readonly log: Logger;
  readonly writeMode: () => WriteMode;
  readonly pending: (now: Date) => PendingContext;
  readonly list: () => Promise<readonly FoundDisk[]>;
  /** Scans the disks on the target again, which ends with a call of `ensureAttached`. */
  readonly rescan: () => Promise<void>;
  readonly admit: (id: string) => Promise<void>;
};

export class FabricDisks {
  readonly #options: FabricDisksOptions;
  readonly #troubles = new Map<FabricDisk, string>();
  #timer: NodeJS.Timeout | undefined;
  #attaching = false;
  #stopped = false;

  constructor(options: FabricDisksOptions) {
    this.#options = options;
  }

  /** The configuration entry of a disk, matched by serial and nsid. */
  entryOf(row: DiskRow): FabricDisk | undefined {
    return entryOf(this.#options.config, row);
  }

  /** Why disks of the configuration have no row; undefined: each has one. */
  get trouble(): string | undefined {
    const texts = this.#withoutRow().map((entry) => this.#troubleOf(entry));
    return texts.length === 0 ? undefined : texts.join("; ");
  }

  #troubleOf(entry: FabricDisk): string {
    const why = this.#troubles.get(entry) ?? "not attached yet";
    return `fabric disk ${entry.serial}/${entry.nsid}: ${why}`;
  }

  /** Attaches entries that have no row and are not in `found`, inserts their rows, and admits. */
  async ensureAttached(found: readonly FoundDisk[]): Promise<void> {
    // One run at a time: a second one would attach the same entries again.
    const { rows, writeMode } = this.#options;
    if (this.#attaching || rows.node === undefined || writeMode() !== "read-write") return;
    this.#attaching = true;
    try {
      const all = await this.#attachUnseen(found);
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

  /** Attaches the controllers of entries that are not found. Resolves to what is on the target then. */
  async #attachUnseen(found: readonly FoundDisk[]): Promise<readonly FoundDisk[]> {
    const unseen = this.#withoutRow().filter(
      (entry) => !found.some((disk) => isEntry(entry, disk)),
    );
    if (unseen.length === 0) return found;
    const controllers = Map.groupBy(unseen, controllerName);
    const attached = await Promise.all(
      [...controllers].map(async ([name, entries]) => {
        const isAttached = await this.#attach(name, entries);
        return isAttached ? [name] : [];
      }),
    );
    const all = await this.#options.list();
    const isThere = (entry: FabricDisk) => all.some((disk) => isEntry(entry, disk));
    const without = attached
      .flat()
      .filter((name) => !(controllers.get(name) ?? []).some((entry) => isThere(entry)));
    for (const entry of unseen) if (!isThere(entry)) this.#missing(entry, all);
    await Promise.all(without.map((name) => this.#detach(name, [])));
    return all;
  }

  /** Resolves to whether this call has attached it; its namespaces may be there otherwise, too. */
  async #attach(name: string, entries: readonly FabricDisk[]): Promise<boolean> {
    const { spdk, lanes } = this.#options;
    const [entry] = entries;
    if (entry === undefined) return false;
    const { trtype, traddr, trsvcid, subnqn } = entry;
    const adrfam = addressFamily(traddr);
    for (const one of entries) this.#troubles.delete(one);
    try {
      await lanes.run([{ kind: "disk", disk: name, mode: "exclusive" }], () =>
        spdk.bdevNvmeAttachController({ name, trtype, traddr, trsvcid, subnqn, adrfam }),
      );
      return true;
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      for (const one of entries) this.#troubles.set(one, `cannot attach it: ${message}`);
      return false;
    }
  }

  #missing(entry: FabricDisk, all: readonly FoundDisk[]): void {
    const { serial, nsid, subnqn } = entry;
    const name = controllerName(entry);
    const there = all.filter((disk) => disk.controllerName === name);
    const shown = there.find((disk) => disk.nsid === nsid)?.serial;
    if (shown !== undefined) this.#troubles.set(entry, `its address shows serial ${shown}`);
    else if (there.length > 0 || !this.#troubles.has(entry))
      this.#troubles.set(entry, `its controller has no namespace ${nsid}`);
    const trouble = this.#troubleOf(entry);
    this.#options.log.warn({ serial, nsid, subnqn, shown, trouble }, "fabric disk is not there");
  }

  /** Of what nothing was expected, unless a disk of this node needs it. */
  async #detach(name: string, besides: readonly string[]): Promise<void> {
    const { spdk, lanes, list } = this.#options;
    await lanes.run(lanesOn(this.#options, name), async () => {
      const about = { besides, found: await list() };
      if (keptOnFabric(this.#options, name, about) !== undefined) return;
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
