// How many clusters of each lvstore are free. Creates and deletes change that, and so do hosts, whose
// writes to thin volumes and discards are no events. So a store is read again, by uuid and with the next
// poll, once a change of an lvol on it was answered, and while the target completes hosts' I/O: a target
// on which nothing happens is asked nothing.
//
// It never changes anything.
import type { Logger } from "pino";
import { alignUp } from "../../model/bytes.ts";
import type { DiskRow } from "../../model/disk.ts";
import { isUuid } from "../../model/identity.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { Lvstore } from "../../spdk/replies-lvol.ts";
import type { Notification } from "../../spdk/replies-target.ts";
import type { CallerOptions } from "../../spdk/rpc.ts";
import type { StoreChanges } from "../../spdk/store-changes.ts";
import type { Rows } from "../../store/rows.ts";
import type { ObservedStore } from "./observed-disk.ts";
import type { Observed } from "./observed.ts";

export type StoreSpaceOptions = {
  readonly spdk: Pick<SpdkClient, "getLvstore">;
  readonly rows: Rows;
  readonly observed: Observed;
  readonly storeChanges: StoreChanges;
  readonly log: Logger;
};

type Known = {
  /** Changes of the store that had ended when it was last read. */
  readonly changes: number;
  /** Completed I/O of hosts at the last poll before that read. */
  readonly completedIo: bigint;
};

const NOTHING: Known = { changes: 0, completedIo: 0n };

/** After what another client did: an lvol may keep its clusters for a while after its event. */
const POLLS_AFTER_EVENT = 2;

export class StoreSpace {
  readonly #options: StoreSpaceOptions;
  /** By uuid of the store. */
  readonly #known = new Map<string, Known>();
  /** Reads that were asked for and are not sent yet, and those that are not answered. */
  readonly #next = new Map<string, Promise<void>>();
  readonly #running = new Map<string, Promise<void>>();
  #incarnation: string | undefined;
  #completedIo = 0n;
  #pollsDue = 0;

  constructor(options: StoreSpaceOptions) {
    this.#options = options;
  }

  /**
   * With each poll of the target, completedIo as it has just answered: reads the stores whose free
   * clusters may differ from what was observed.
   */
  async poll(completedIo: bigint): Promise<void> {
    const { incarnation } = this.#options.observed;
    if (incarnation === undefined) return;
    if (incarnation !== this.#incarnation) this.#beginIncarnation(incarnation);
    this.#completedIo = completedIo;
    const all = this.#pollsDue > 0;
    if (all) this.#pollsDue -= 1;
    const due = [...this.#options.rows.disks()].flatMap((row) => {
      const store = this.#storeOf(row);
      return store !== undefined && (all || this.#isDue(row, store)) ? [{ row, store }] : [];
    });
    await Promise.all(due.map(({ row, store }) => this.#read(row, store)));
  }

  /** Its full scan has read the stores; it begins to count hosts' I/O at 0. */
  #beginIncarnation(incarnation: string): void {
    this.#incarnation = incarnation;
    for (const [uuid, { changes }] of this.#known) {
      this.#known.set(uuid, { ...NOTHING, changes });
    }
  }

  /** Other clients of the target may have made, grown or deleted lvols. */
  applyEvents(events: readonly Notification[]): void {
    const { rows } = this.#options;
    const isForeign = ({ bdevName, type }: Notification) => {
      if (!isUuid(bdevName)) return false;
      const row = rows.lvolByUuid(bdevName);
      if (row === undefined || type === "bdev_resize") return true;
      return type === "bdev_unregister" && row.deleteRequestedTime === undefined;
    };
    if (events.some(isForeign)) this.#pollsDue = POLLS_AFTER_EVENT;
  }

  /**
   * Free clusters by disk, for the admission of a volume: where too few seem to be free for it, they are
   * read again, as some may have been freed since. Without an answer of the target the last one counts.
   */
  async freeFor(asked: {
    readonly sizeBytes: bigint;
    readonly thin: boolean;
  }): Promise<ReadonlyMap<string, bigint>> {
    const disks = [...this.#options.rows.disks()];
    await Promise.all(
      disks.map(async (row) => {
        const store = this.#storeOf(row);
        if (store !== undefined && store.freeClusters < clustersFor(asked, store.clusterBytes)) {
          await this.#read(row, store);
        }
      }),
    );
    const free = disks.flatMap((row): [string, bigint][] => {
      const store = this.#storeOf(row);
      return store === undefined ? [] : [[row.id, store.freeClusters]];
    });
    return new Map(free);
  }

  /** Reads a store now; rejects without an answer. */
  async readStore(
    diskId: string,
    uuid: string,
    options: CallerOptions = {},
  ): Promise<Lvstore | undefined> {
    const { spdk, observed, storeChanges } = this.#options;
    const { incarnation } = observed;
    const mark = observed.beginFreeRead();
    const known = { changes: storeChanges.count(uuid), completedIo: this.#completedIo };
    const found = await spdk.getLvstore({ uuid }, options);
    if (found === undefined || observed.incarnation !== incarnation) return found;
    this.#known.set(uuid, known);
    observed.setFreeClusters(diskId, found, mark);
    return found;
  }

  #storeOf({ id, lvsUuid }: DiskRow): ObservedStore | undefined {
    const store = this.#options.observed.disk(id)?.store;
    return lvsUuid !== undefined && store?.uuid === lvsUuid ? store : undefined;
  }

  #isDue(row: DiskRow, { uuid }: ObservedStore): boolean {
    const { storeChanges } = this.#options;
    const { changes, completedIo } = this.#known.get(uuid) ?? NOTHING;
    if (storeChanges.isRunning(uuid) || storeChanges.count(uuid) !== changes) return true;
    return completedIo !== this.#completedIo && this.#hasThinVolume(row);
  }

  #hasThinVolume({ id }: DiskRow): boolean {
    const { rows, observed } = this.#options;
    for (const volume of rows.lvolIdsOn(id)) {
      const row = rows.lvol(volume);
      if (row === undefined || row.deleteTime !== undefined || row.lvolUuid === undefined) continue;
      const { lvol } = observed.volume(volume);
      if (lvol?.kind === "present" ? lvol.thin : row.thin) return true;
    }
    return false;
  }

  /** A read that begins from now on; whoever asks before it is sent shares it. */
  #read(row: DiskRow, store: ObservedStore): Promise<void> {
    const { uuid } = store;
    const next = this.#next.get(uuid);
    if (next !== undefined) return next;
    const read = (this.#running.get(uuid) ?? Promise.resolve()).then(() => {
      this.#next.delete(uuid);
      const running = this.#readNow(row.id, uuid).finally(() => this.#running.delete(uuid));
      this.#running.set(uuid, running);
      return running;
    });
    this.#next.set(uuid, read);
    return read;
  }

  async #readNow(diskId: string, uuid: string): Promise<void> {
    try {
      await this.readStore(diskId, uuid);
    } catch (error) {
      this.#options.log.debug(
        { err: error, disk: diskId },
        "cannot read the free clusters of a disk",
      );
    }
  }
}

/** Clusters that must be free to make the volume: a thin one needs its first with the first write. */
function clustersFor(
  { sizeBytes, thin }: { readonly sizeBytes: bigint; readonly thin: boolean },
  clusterBytes: bigint,
): bigint {
  return thin ? 1n : alignUp(sizeBytes, clusterBytes) / clusterBytes;
}
