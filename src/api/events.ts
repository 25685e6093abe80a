// ListEvents: what happened, the newest first, from the database.
import { Event as EventMessage } from "../gen/storagenode/v1/node.ts";
import { Refusal } from "../model/errors.ts";
import { eventOf, traceIdOf } from "../model/event.ts";
import type { Agent, EventsOfNode } from "./agent.ts";
import type { CallContext, StorageNodeHandlers } from "./call.ts";
import { pageToken } from "./fields.ts";
import * as requests from "./node-requests.ts";
import { fitting } from "./page.ts";

type Recorded = Awaited<ReturnType<EventsOfNode["list"]>>[number];

export function eventHandlers(agent: Agent): Pick<StorageNodeHandlers, "listEvents"> {
  return {
    async listEvents(request) {
      const { objectId, pageSize, before } = requests.listEvents(request, agent.nodeId);
      // One more than asked for tells whether there is another page.
      const found = await listed(agent, { objectId, before, limit: pageSize + 1 });
      const events = fitting(found.slice(0, pageSize).map(eventMessage), EventMessage);
      const last = events.at(-1);
      const more = found.length > events.length && last !== undefined;
      return { events, nextPageToken: more ? pageToken(last.id) : "" };
    },
  };
}

/** Tells what a call has done that is no intent. */
export function tellOf(
  { events }: Pick<Agent, "events">,
  { actor, traceparent }: Pick<CallContext, "actor" | "traceparent">,
  event: Parameters<typeof eventOf>[0],
): void {
  const time = new Date();
  events.add(() => [eventOf({ ...event, actor, traceId: traceIdOf(traceparent), time })]);
}

async function listed(agent: Agent, query: Parameters<EventsOfNode["list"]>[0]) {
  try {
    return await agent.events.list(query);
  } catch (cause) {
    if (!agent.events.isDown(cause)) throw cause;
    const message = "events are in the database, which cannot be reached";
    throw new Refusal("DATABASE_DOWN", message, { retryAfterMs: 1_000, cause });
  }
}

function eventMessage({ id, ...event }: Recorded): EventMessage {
  return { ...event, id: id.toString() };
}
