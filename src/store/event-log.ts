// The events of the node, as rows. They are written some time after what they tell, many in one statement,
// on a connection of their own: no transaction of the writer waits for them. What is not written yet is in a
// bounded queue, also while the database is away. An event that is lost with the agent's process is lost;
// the row of its object still says what was wanted, by whom and how far it got.
import type { Logger } from "pino";
import { z } from "zod";
import { eventOf, type Event } from "../model/event.ts";
import {
  EVENT_FLUSH_MS,
  EVENT_PRUNE_MS,
  EVENT_TEXT_CHARS,
  EVENTS_PER_STATEMENT,
  EVENTS_QUEUED,
} from "../limits.ts";
import { NO_INSTRUMENTS, type Instruments } from "../telemetry/instruments.ts";
import { records } from "./columns.ts";
import { connect, isDatabaseDown, type Database } from "./database.ts";
import type { Fence } from "./fence.ts";

type Client = Awaited<ReturnType<typeof connect>>;

export type RecordedEvent = Omit<Event, "objectKind" | "reason"> & {
  readonly id: bigint;
  readonly objectKind: string;
  readonly reason: string;
};

export type EventQuery = {
  /** Undefined: of the node and all its objects. */
  readonly objectId: string | undefined;
  /** Only those that were written before this one. */
  readonly before: bigint | undefined;
  readonly limit: number;
};

export type EventLogOptions = {
  readonly database: Database;
  readonly fence: Pick<Fence, "epoch" | "hold" | "databaseAway">;
  readonly nodeId: string;
  readonly retentionMs: number;
  readonly log: Logger;
  readonly instruments?: Instruments;
};

const eventSql = z.object({
  id: z.bigint(),
  object_kind: z.string(),
  object_id: z.string(),
  reason: z.string(),
  before: z.string(),
  after: z.string(),
  message: z.string(),
  actor: z.string(),
  trace_id: z.string(),
  time: z.date(),
});

export class EventLog implements AsyncDisposable {
  readonly #options: EventLogOptions;
  readonly #instruments: Instruments;
  /** Made when they are written, so that telling costs little. */
  #queue: (() => readonly Event[])[] = [];
  #dropped = 0;
  #flushing: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  readonly #pruneTimer: NodeJS.Timeout;
  /** The epoch that the queue belongs to. */
  #epoch: bigint | undefined;
  #closed = false;

  constructor(options: EventLogOptions) {
    this.#options = options;
    this.#instruments = options.instruments ?? NO_INSTRUMENTS;
    this.#pruneTimer = setInterval(() => {
      this.prune().catch((error: unknown) => this.#report(error, "cannot delete old events"));
    }, EVENT_PRUNE_MS);
    this.#pruneTimer.unref();
  }

  /** How many tellings wait to be written. */
  get queued(): number {
    return this.#queue.length;
  }

  /** Only the agent that leads the node tells what happens on it. */
  get leads(): boolean {
    const { epoch, hold } = this.#options.fence;
    return epoch !== undefined && hold === undefined;
  }

  /** Never waits. What does not fit into the queue is counted and told as one event. */
  add(make: () => readonly Event[]): void {
    if (!this.leads || this.#closed) return;
    const { epoch } = this.#options.fence;
    if (epoch !== this.#epoch) this.#queue = [];
    this.#epoch = epoch;
    if (this.#queue.length >= EVENTS_QUEUED) {
      this.#dropped += 1;
      this.#instruments.metrics.events("dropped", 1);
      return;
    }
    this.#queue.push(make);
    this.#flushLater();
  }

  #flushLater(): void {
    if (this.#timer !== undefined || this.#closed) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.flush()
        .catch((error: unknown) => this.#report(error, "cannot write events"))
        .finally(() => {
          if (this.#queue.length > 0) this.#flushLater();
        });
    }, EVENT_FLUSH_MS);
  }

  #report(error: unknown, what: string): void {
    this.#options.log[isDatabaseDown(error) ? "debug" : "error"]({ err: error }, what);
  }

  /** Writes what was told until now. Throws if the database cannot be reached; it is kept then. */
  async flush(): Promise<void> {
    // What was added since the flush in progress began is not in it.
    await this.#flushing?.catch(() => {});
    this.#flushing ??= this.#writeAll().finally(() => (this.#flushing = undefined));
    await this.#flushing;
  }

  async #writeAll(): Promise<void> {
    while (this.#queue.length > 0) {
      const { nodeId } = this.#options;
      const batch = this.#queue.slice(0, EVENTS_PER_STATEMENT);
      const events = batch.flatMap((make) => make());
      const dropped = this.#dropped;
      if (dropped > 0) {
        const told = { objectKind: "node", objectId: nodeId, reason: "EVENTS_DROPPED" } as const;
        events.push(eventOf({ ...told, after: `${dropped}` }));
      }
      const epoch = this.#epoch;
      try {
        await this.#withClient((client) => insertEvents(client, { nodeId, epoch, events }));
        this.#instruments.metrics.events("written", events.length);
      } catch (error) {
        if (isDatabaseDown(error)) throw error;
        // The same statement would fail again: nothing after it would ever be written.
        this.#options.log.error({ err: error, events: events.length }, "events are refused");
      }
      if (epoch !== this.#epoch) continue;
      this.#queue.splice(0, batch.length);
      this.#dropped -= dropped;
    }
  }

  /** The newest first. */
  async list({ objectId, before, limit }: EventQuery): Promise<readonly RecordedEvent[]> {
    if (this.leads) await this.flush();
    const { nodeId } = this.#options;
    const { rows } = await this.#withClient((client) =>
      client.query(
        `select id, object_kind, object_id, reason, before, after, message, actor, trace_id, time
         from event where node_id = $1 ${objectId === undefined ? "" : "and object_id = $4"}
           and id < coalesce($2, 9223372036854775807) order by id desc limit $3`,
        [nodeId, before?.toString(), limit, ...(objectId === undefined ? [] : [objectId])],
      ),
    );
    return z
      .array(eventSql)
      .parse(rows)
      .map(({ object_kind: objectKind, object_id, trace_id: traceId, ...event }) => {
        return { ...event, objectKind, objectId: object_id, traceId };
      });
  }

  /** Deletes events that are older than the retention, a few at a time; returns how many. */
  async prune(): Promise<number> {
    const { nodeId, retentionMs } = this.#options;
    let deleted = 0;
    for (;;) {
      if (!this.leads || this.#closed) return deleted;
      const before = new Date(Date.now() - retentionMs);
      const { rowCount } = await this.#withClient((client) =>
        // Only the oldest are looked at: ids rise with time, and no index has the time.
        client.query(
          `with oldest as (
             select id from event where node_id = $1 order by id limit $3)
           delete from event using oldest
           where event.node_id = $1 and event.id = oldest.id and event.time < $2`,
          [nodeId, before, EVENTS_PER_STATEMENT],
        ),
      );
      deleted += rowCount ?? 0;
      if (rowCount !== EVENTS_PER_STATEMENT) return deleted;
    }
  }

  /** Its statements belong to no intent: they are neither traced nor counted with those that do. */
  async #withClient<T>(act: (client: Client) => Promise<T>): Promise<T> {
    const client = await connect(this.#options.database.pool);
    try {
      return await act(client);
    } finally {
      client.release();
    }
  }

  /** Writes what is left, unless the database is away. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    clearInterval(this.#pruneTimer);
    await this.#flushing?.catch(() => {});
    if (this.#queue.length === 0 || this.#options.fence.databaseAway) return;
    await this.flush().catch((error: unknown) => this.#report(error, "cannot write events"));
  }
}

/** Writes nothing if another agent leads the node by now. */
async function insertEvents(
  client: Client,
  {
    nodeId,
    epoch,
    events,
  }: {
    readonly nodeId: string;
    readonly epoch: bigint | undefined;
    readonly events: readonly Event[];
  },
): Promise<void> {
  const rows = events.map((event, position) => ({
    ...event,
    before: storable(event.before),
    after: storable(event.after),
    message: storable(event.message),
    position,
  }));
  await client.query(
    `insert into event (node_id, object_kind, object_id, reason, before, after, message, actor,
                        trace_id, time)
     select node.node_id, e.object_kind, e.object_id, e.reason, e.before, e.after, e.message, e.actor,
            e.trace_id, e.time
     from node, jsonb_to_recordset($3::jsonb) as e (
       object_kind text, object_id text, reason text, before text, after text, message text,
       actor text, trace_id text, time timestamptz, position integer)
     where node.node_id = $1 and node.lease_epoch = $2
     order by e.position`,
    [nodeId, epoch, records(rows)],
  );
}

/** A text of any origin as PostgreSQL takes it. */
function storable(text: string): string {
  const clean = text.replaceAll("\0", "").toWellFormed();
  return clean.length <= EVENT_TEXT_CHARS
    ? clean
    : `${clean.slice(0, EVENT_TEXT_CHARS - 1)}…`.toWellFormed();
}
