// StreamIostat: passes on the frames of the loop iostat. A reader that is slower than its interval
// gets the newest frame when it is ready for one, and the number of those that it missed: no frame
// waits behind another.
import type { Iostat } from "../gen/storagenode/v1/node.ts";
import type { StreamIostatResponse } from "../gen/storagenode/v1/storage_node.ts";
import { Refusal } from "../model/errors.ts";
import { noVolume } from "../model/intent.ts";
import type { IostatFilter, IostatFrame } from "../model/iostat.ts";
import type { Agent } from "./agent.ts";
import type { StorageNodeHandlers } from "./call.ts";

import { iostatMessage } from "./messages.ts";
import { requireRows } from "./preconditions.ts";
import * as requests from "./iostat-requests.ts";

export function iostatHandlers(agent: Agent): Pick<StorageNodeHandlers, "streamIostat"> {
  return {
    streamIostat: async function* (request, { signal }) {
      const { filter, intervalMs } = requests.streamIostat(request);
      requireRows(agent);
      refuseUnknown(agent, filter);
      const newest = new NewestFrame();
      const onFrame = (frame: IostatFrame) => {
        if (newest.put(frame)) agent.iostat.countDropped();
      };
      const unsubscribe = agent.iostat.subscribe({ filter, intervalMs, onFrame });
      signal.addEventListener("abort", unsubscribe, { once: true });
      try {
        yield* answers(newest, signal);
      } finally {
        unsubscribe();
      }
    },
  };
}

/** Until the signal aborts. */
async function* answers(
  newest: NewestFrame,
  signal: AbortSignal,
): AsyncGenerator<StreamIostatResponse> {
  let last: number | undefined;
  for (;;) {
    const taken = await newest.take(signal);
    if (taken === undefined) return;
    const { frame, dropped } = taken;
    yield { time: frame.time, iostats: iostatsSince(frame, last), dropped: BigInt(dropped) };
    last = frame.sample;
  }
}

function refuseUnknown({ rows }: Agent, { lvolIds, diskIds }: IostatFilter): void {
  for (const id of typeof lvolIds === "string" ? [] : lvolIds) {
    const row = rows.lvol(id);
    if (row === undefined) throw noVolume(id, rows.snapshots.get(id) !== undefined);
    if (row.deleteTime !== undefined) throw new Refusal("NOT_FOUND", `volume ${id} was deleted`);
  }
  for (const id of diskIds === "all" ? [] : diskIds) {
    if (rows.disk(id) === undefined)
      throw new Refusal("NOT_FOUND", `disk ${id} is not on this node`);
  }
}

/** Holds one frame: a newer one replaces it. */
class NewestFrame {
  #frame: IostatFrame | undefined;
  #dropped = 0;
  #wake: () => void = () => {};

  /** Returns whether a frame that was not taken is dropped. */
  put(frame: IostatFrame): boolean {
    const drops = this.#frame !== undefined;
    if (drops) this.#dropped += 1;
    this.#frame = frame;
    this.#wake();
    return drops;
  }

  /** Undefined once the signal aborts. */
  async take(
    signal: AbortSignal,
  ): Promise<{ readonly frame: IostatFrame; readonly dropped: number } | undefined> {
    if (this.#frame === undefined && !signal.aborted) await this.#put(signal);
    const frame = this.#frame;
    if (frame === undefined || signal.aborted) return undefined;
    const dropped = this.#dropped;
    this.#frame = undefined;
    this.#dropped = 0;
    return { frame, dropped };
  }

  #put(signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        signal.removeEventListener("abort", end);
        resolve();
      };
      this.#wake = end;
      signal.addEventListener("abort", end, { once: true });
    });
  }
}

/** The messages of a frame, made once for all readers. */
type Messages = {
  /** The newest sample in which counters began anew. */
  readonly newestReset: number;
  readonly unmarked: Iostat[];
  /** With reset marks, by the sample that the reader got last. */
  readonly marked: Map<number, Iostat[]>;
};

const messagesOf = new WeakMap<IostatFrame, Messages>();

/** The counters of a frame for readers that got the sample `last` before; undefined: none. */
function iostatsSince(frame: IostatFrame, last: number | undefined): Iostat[] {
  const { readings } = frame;
  const messages = messagesOf.get(frame) ?? {
    newestReset: readings.reduce((newest, one) => Math.max(newest, one.resetSample), 0),
    unmarked: readings.map((one) => iostatMessage(one, false)),
    marked: new Map<number, Iostat[]>(),
  };
  messagesOf.set(frame, messages);
  if (last === undefined || messages.newestReset <= last) return messages.unmarked;
  const marked =
    messages.marked.get(last) ?? readings.map((one) => iostatMessage(one, one.resetSample > last));
  messages.marked.set(last, marked);
  return marked;
}
