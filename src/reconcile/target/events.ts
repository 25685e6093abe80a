// What happens on the target without this agent: a bdev that vanishes or comes back. SPDK keeps the
// newest 1,024 events and cannot wake anybody, so one small call asks for what is new. An event is a
// hint, never an observation: whatever it names is looked at (CONTRACT section 2).
import type { DiskRow } from "../../model/disk.ts";
import type { LvolRow } from "../../model/lvol.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { Notification } from "../../spdk/replies-target.ts";
import type { Rows } from "../../store/rows.ts";
import type { Observed } from "./observed.ts";

export type TargetEventsOptions = {
  readonly spdk: Pick<SpdkClient, "notifyGetNotifications">;
  readonly rows: Rows;
  readonly observed: Observed;
  readonly periodMs: number;
  readonly scanAll: () => Promise<void>;
  readonly scanDisks: () => Promise<void>;
  /** What else is asked each time, in the same write. */
  readonly alsoPoll: () => Promise<void>;
  readonly onError: (error: unknown) => void;
};

export class TargetEvents {
  readonly #options: TargetEventsOptions;
  #nextId = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: TargetEventsOptions) {
    this.#options = options;
  }

  /** Everything is about to be listed: what happens from now on counts. */
  async begin(): Promise<void> {
    this.stop();
    // Which id is the newest can only be learnt from the events themselves.
    const old = await this.#options.spdk.notifyGetNotifications();
    this.#nextId = (old.at(-1)?.id ?? -1) + 1;
  }

  follow(): void {
    this.stop();
    const timer = setTimeout(() => {
      const { alsoPoll, onError } = this.#options;
      const ended = Promise.all([this.#poll().catch(onError), alsoPoll().catch(onError)]);
      ended
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
    if (first === undefined || last === undefined) return;
    const someWereDropped = first.id > this.#nextId;
    this.#nextId = last.id + 1;
    if (someWereDropped) await scanAll();
    else await this.#apply(events);
  }

  async #apply(events: readonly Notification[]): Promise<void> {
    const { rows, observed, scanAll, scanDisks } = this.#options;
    // What came and went between two looks is gone: of each bdev the last event counts.
    const last = new Map(events.map(({ bdevName, type }) => [bdevName, type]));
    const names = (type: string) =>
      new Set([...last].flatMap(([name, one]) => (one === type ? [name] : [])));
    // Gone in between is gone, though it is back: its namespace went with it.
    const gone = new Set(
      events.flatMap(({ bdevName, type }) => (type === "bdev_unregister" ? [bdevName] : [])),
    );
    const resized = names("bdev_resize");
    const come = names("bdev_register");
    // The name of an lvol's bdev is its uuid.
    const rowsOf = (uuids: ReadonlySet<string>) =>
      [...uuids].flatMap((uuid) => rows.lvolByUuid(uuid) ?? []);
    const back = rowsOf(come).some((row) => isBack(row, observed));
    for (const { id, deleteRequestedTime } of [...rowsOf(gone), ...rowsOf(resized)]) {
      // What was deleted at our request is gone as it should be.
      if (deleteRequestedTime !== undefined) continue;
      observed.setLvol(id, undefined);
      observed.setSubsystem(id, undefined);
    }
    const isGone = ({ id }: DiskRow) => gone.has(observed.disk(id)?.bdevName ?? "");
    // The look at everything has the disks in it.
    if (back) await scanAll();
    else if ([...rows.disks()].some(isGone)) await scanDisks();
  }
}

/** A volume that was missing or deleted, and not one that was just made. */
function isBack({ id, deleteTime }: LvolRow, observed: Observed): boolean {
  return deleteTime !== undefined || observed.volume(id).lvol?.kind === "absent";
}
