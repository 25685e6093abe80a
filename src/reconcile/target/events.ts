// What happens on the target without this agent: a bdev that vanishes or comes back. SPDK keeps the
// newest 1,024 events and cannot wake anybody, so one small call asks for what is new. An event is a
// hint, never an observation: whatever it names is looked at (CONTRACT section 2).
import type { DiskRow } from "../../model/disk.ts";
import type { LvolRow } from "../../model/lvol.ts";
import type { SpdkClient } from "../../spdk/client.ts";
import type { Notification } from "../../spdk/replies-target.ts";
import type { Rows } from "../../store/rows.ts";
import type { Seen } from "./observed.ts";

export type TargetEventsOptions = {
  readonly spdk: Pick<SpdkClient, "notifyGetNotifications">;
  readonly rows: Rows;
  readonly seen: Seen;
  readonly periodMs: number;
  readonly lookAtEverything: () => Promise<void>;
  readonly lookAtDisks: () => Promise<void>;
  /** What else is asked each time, in the same write. */
  readonly alsoLook: () => Promise<void>;
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
      const { alsoLook, onError } = this.#options;
      const ended = Promise.all([this.#look().catch(onError), alsoLook().catch(onError)]);
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

  async #look(): Promise<void> {
    const { spdk, lookAtEverything } = this.#options;
    const events = await spdk.notifyGetNotifications({ id: this.#nextId });
    const [first, last] = [events[0], events.at(-1)];
    if (first === undefined || last === undefined) return;
    const someWereDropped = first.id > this.#nextId;
    this.#nextId = last.id + 1;
    if (someWereDropped) await lookAtEverything();
    else await this.#take(events);
  }

  async #take(events: readonly Notification[]): Promise<void> {
    const { rows, seen, lookAtEverything, lookAtDisks } = this.#options;
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
    const back = rowsOf(come).some((row) => isBack(row, seen));
    for (const { id, deleteRequestedTime } of [...rowsOf(gone), ...rowsOf(resized)]) {
      // What was deleted at our request is gone as it should be.
      if (deleteRequestedTime !== undefined) continue;
      seen.setLvol(id, undefined);
      seen.setSubsystem(id, undefined);
    }
    const isGone = ({ id }: DiskRow) => gone.has(seen.disk(id)?.bdevName ?? "");
    // The look at everything has the disks in it.
    if (back) await lookAtEverything();
    else if ([...rows.disks()].some(isGone)) await lookAtDisks();
  }
}

/** A volume that was missing or deleted, and not one that was just made. */
function isBack({ id, deleteTime }: LvolRow, seen: Seen): boolean {
  return deleteTime !== undefined || seen.volume(id).lvol?.kind === "absent";
}
