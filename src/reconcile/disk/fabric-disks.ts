// Attaches the disks of STORAGE_NODE_FABRIC_DISKS that have no row yet, and inserts their rows. A
// disk's id contains its model, which only the target can read, so the first attach happens before
// there is a row; later attaches are steps of disk-init.
//
// It never inserts a disk whose serial differs from its entry: its controller is detached, unless this node needs it.
import type { Logger } from "pino";
import type { Config } from "../../config.ts";
import type { FabricDisk } from "../../config-disks.ts";
import type { DiskRow } from "../../model/disk.ts";
import { addressFamily } from "../../model/address.ts";
import { assertedAs } from "./discover.ts";
import { FabricElsewhere } from "./fabric-elsewhere.ts";
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
import { ELSEWHERE_MS, FABRIC_RETRY_MS } from "../../limits.ts";

export type FabricDisksOptions = {
  readonly config: Pick<Config, "fabricDisks" | "nodeId">;
  readonly rows: Rows;
  readonly writer: Pick<Writer, "insertDisk" | "disksElsewhere">;
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
  readonly #elsewhere: FabricElsewhere;
  readonly #troubles = new Map<FabricDisk, string>();
  #timer: NodeJS.Timeout | undefined;
  #attaching = false;
  #stopped = false;

  constructor(options: FabricDisksOptions) {
    this.#options = options;
    this.#elsewhere = new FabricElsewhere(options);
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
    const why = this.#elsewhere.reason(entry) ?? this.#troubles.get(entry) ?? "not attached yet";
    return `fabric disk ${entry.serial}/${entry.nsid}: ${why}`;
  }

  /** Attaches entries that have no row and are not in `found`, inserts their rows, and admits. */
  async ensureAttached(found: readonly FoundDisk[]): Promise<void> {
    // One run at a time: a second one would attach the same entries again.
    const { rows, writeMode } = this.#options;
    if (this.#attaching || rows.node === undefined || writeMode() !== "read-write") return;
    this.#attaching = true;
    try {
      await this.#elsewhere.lookUp(this.#withoutRow());
      const { all, attached } = await this.#attachUnseen(found);
      await Promise.all(
        this.#unknown().map(async (entry) => {
          const disk = all.find((candidate) => isEntry(entry, candidate));
          if (disk !== undefined) await this.#insert(entry, disk, attached);
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
    if (this.#unknown().length > 0) this.#retry();
    else if (this.#withoutRow().length > 0) this.#retry(ELSEWHERE_MS);
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

  /** Entries without a row, here or elsewhere. */
  #unknown(): readonly FabricDisk[] {
    return this.#withoutRow().filter((entry) => this.#elsewhere.reason(entry) === undefined);
  }

  /** Why the controller of a disk must not be attached; undefined: it may be. */
  waits(row: DiskRow): string | undefined {
    const entry = this.entryOf(row);
    return entry && this.#elsewhere.reasonOf(controllerName(entry));
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  /** A disk that this call has attached, and that another node has got meanwhile, goes again. */
  async #insert(entry: FabricDisk, disk: FoundDisk, attached: ReadonlySet<string>): Promise<void> {
    const { observed } = this.#options;
    const row = await this.#elsewhere.insert(entry, disk);
    if (row !== undefined) observed.setDisk(row.id, disk);
    else if (attached.has(disk.controllerName)) await this.#detach(disk.controllerName, [disk.id]);
  }

  /** Attaches the controllers of entries that are not found. Resolves to what is on the target then. */
  async #attachUnseen(found: readonly FoundDisk[]) {
    const unseen = this.#unknown()
      .filter((entry) => !found.some((disk) => isEntry(entry, disk)))
      .filter((entry) => this.#elsewhere.reasonOf(controllerName(entry)) === undefined);
    const names = [...new Set(unseen.map(controllerName))];
    const entriesOf = (name: string) => unseen.filter((entry) => controllerName(entry) === name);
    const attached = new Set<string>();
    await Promise.all(
      names.map(async (name) => {
        if (await this.#attach(name, entriesOf(name))) attached.add(name);
      }),
    );
    const all = unseen.length === 0 ? found : await this.#options.list();
    const isThere = (entry: FabricDisk) => all.some((disk) => isEntry(entry, disk));
    for (const entry of unseen) if (!isThere(entry)) this.#missing(entry, all);
    const without = [...attached].filter((name) => !entriesOf(name).some(isThere));
    await Promise.all(without.map((name) => this.#detach(name, [])));
    return { all, attached };
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

  #retry(delayMs = FABRIC_RETRY_MS): void {
    if (this.#stopped || this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#stopped || this.#options.observed.incarnation === undefined) return;
      this.#options
        .rescan()
        .catch((error: unknown) =>
          this.#options.log.warn({ err: error }, "cannot list the disks on the SPDK target"),
        );
    }, delayMs);
    this.#timer.unref();
  }
}
