// Polls the target's bdev events (register, unregister, resize), to notice changes that this agent
// did not make. SPDK keeps the newest 1,024 events and cannot push them, so one call per period
// reads the new ones. An event is never taken as an observation: the object it names is read again
// (docs/spdk-contract.md#events).
import type { DiskRow } from "../../model/disk.ts";
import type { LvolRow } from "../../model/lvol.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { Notification } from "../../spdk/replies-target.ts";
import type { Rows } from "../../store/rows.ts";
import type { IostatLoop } from "./iostat.ts";
import type { Observed } from "./observed.ts";
import type { Orphans } from "./orphans.ts";
import type { StoreSpace } from "./store-space.ts";

export type TargetEventsOptions = {
  readonly spdk: Pick<SpdkClient, "notifyGetNotifications">;
  readonly rows: Rows;
  readonly observed: Observed;
  readonly orphans: Pick<Orphans, "applyEvents">;
  readonly space: Pick<StoreSpace, "applyEvents">;
  readonly periodMs: number;
  readonly scanAll: () => Promise<void>;
  readonly scanDisks: () => Promise<void>;
  /** Another poll, sent to the target in the same write as this one. */
  readonly alsoPoll: () => Promise<void>;
  readonly iostat: Pick<IostatLoop, "bdevsUnregistered">;
  readonly onError: (error: unknown) => void;
};

export class TargetEvents {
  readonly #options: TargetEventsOptions;
  #nextId = 0;
  /** Bdevs that were registered within the period before the last poll. */
  #registered: ReadonlySet<string> = new Set();
  #timer: NodeJS.Timeout | undefined;

  constructor(options: TargetEventsOptions) {
    this.#options = options;
  }

  /** Skips the events so far. Called right before a full scan, which shows what they led to. */
  async begin(): Promise<void> {
    this.stop();
    // SPDK has no call for the newest event id: it is read from the events themselves.
    const old = await this.#options.spdk.notifyGetNotifications();
    this.#nextId = (old.at(-1)?.id ?? -1) + 1;
  }

  /** Polls once per period until `stop` or `begin`. */
  follow(): void {
    this.stop();
    const timer = setTimeout(() => {
      const { alsoPoll, onError } = this.#options;
      const polls = Promise.all([this.#poll().catch(onError), alsoPoll().catch(onError)]);
      polls
        .then(() => {
          if (this.#timer === timer) this.follow();
        })
        .catch(onError);
    }, this.#options.periodMs);
    this.#timer = timer.unref();
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  async #poll(): Promise<void> {
    const { spdk, scanAll } = this.#options;
    const events = await spdk.notifyGetNotifications({ id: this.#nextId });
    const [first, last] = [events[0], events.at(-1)];
    const registered = this.#registered;
    this.#registered = new Set();
    // Read one period late: by then the lvol that this agent has made for a volume is in its row.
    this.#options.orphans.applyEvents(
      [...registered],
      events.map(({ bdevName }) => bdevName),
    );
    this.#options.space.applyEvents(events);
    if (first === undefined || last === undefined) return;
    const eventsWereDropped = first.id > this.#nextId;
    this.#nextId = last.id + 1;
    if (eventsWereDropped) {
      this.#options.observed.expectNoResizes();
      await scanAll();
    } else await this.#apply(events);
  }

  /** Of lvols that others have resized. Of two events of one lvol, one may be that of somebody else. */
  #resizedByOthers(events: readonly Notification[]): ReadonlySet<string> {
    const counts = new Map<string, number>();
    for (const { bdevName, type } of events) {
      if (type === "bdev_resize") counts.set(bdevName, (counts.get(bdevName) ?? 0) + 1);
    }
    const { observed } = this.#options;
    const byOthers = [...counts].filter(([uuid, count]) => {
      return !observed.wasExpected(uuid) || count > 1;
    });
    return new Set(byOthers.map(([uuid]) => uuid));
  }

  async #apply(events: readonly Notification[]): Promise<void> {
    const { rows, observed, scanAll, scanDisks } = this.#options;
    // For register, the last event of each bdev decides.
    const lastTypes = new Map(events.map(({ bdevName, type }) => [bdevName, type]));
    const namesOfLast = (type: string) =>
      new Set([...lastTypes].flatMap(([name, last]) => (last === type ? [name] : [])));
    // For unregister, any event counts, even when the bdev was registered again later: SPDK removed
    // its namespace with it.
    const gone = new Set(
      events.flatMap(({ bdevName, type }) => (type === "bdev_unregister" ? [bdevName] : [])),
    );
    if (gone.size > 0) this.#options.iostat.bdevsUnregistered(gone);
    const resized = this.#resizedByOthers(events);
    const registered = namesOfLast("bdev_register");
    this.#registered = registered;
    // The bdev name of an lvol is the lvol's uuid.
    const rowsOf = (uuids: ReadonlySet<string>) =>
      [...uuids].flatMap((uuid) => rows.lvolByUuid(uuid) ?? []);
    const lvolReturned = rowsOf(registered).some((row) => hasReturned(row, observed));
    for (const uuid of gone) {
      const snapshot = rows.snapshots.byUuid(uuid);
      if (snapshot?.deleteRequestedTime === undefined && snapshot !== undefined)
        observed.setSnapshot(snapshot.id, undefined);
    }
    for (const { id, deleteRequestedTime } of [...rowsOf(gone), ...rowsOf(resized)]) {
      // The agent itself deletes the lvol of a volume whose deletion was requested.
      if (deleteRequestedTime !== undefined) continue;
      observed.setLvol(id, undefined);
      observed.setSubsystem(id, undefined);
    }
    const isGone = ({ id }: DiskRow) => gone.has(observed.disk(id)?.bdevName ?? "");
    // A full scan includes the disks.
    if (lvolReturned) await scanAll();
    else if ([...rows.disks()].some(isGone)) await scanDisks();
  }
}

/** Whether the lvol was observed absent or belongs to a tombstone; not so for one just created. */
function hasReturned({ id, deleteTime }: LvolRow, observed: Observed): boolean {
  return deleteTime !== undefined || observed.volume(id).lvol?.kind === "absent";
}
