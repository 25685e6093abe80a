// Events over gRPC, as an operator reads them.
import type { Event } from "../../src/gen/storagenode/v1/node.ts";
import { call, type TestAgent } from "./agent.ts";

type Client = Pick<TestAgent, "client">;

/** All pages, the newest event first. objectId empty: of the node and all its objects. */
export async function eventsOf(
  { client }: Client,
  objectId = "",
  pageSize = 500,
): Promise<readonly Event[]> {
  const all: Event[] = [];
  let pageToken = "";
  do {
    const page = { objectId, pageSize, pageToken };
    const answer = await call(client, client.listEvents.bind(client), page);
    all.push(...answer.events);
    pageToken = answer.nextPageToken;
  } while (pageToken !== "");
  return all;
}

export const reasonsOf = (events: readonly Event[]): readonly string[] =>
  events.map(({ reason }) => reason);
