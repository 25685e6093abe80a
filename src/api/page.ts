// Pagination of lists by key: a page starts after the last id of the page before, so rows created
// or deleted between two pages neither repeat nor hide other rows. It ends after so many objects as were
// asked for, or with fewer once they fill PAGE_BYTES, as clients take no more than 4 MiB.
import { PAGE_BYTES } from "../limits.ts";
import { pageToken } from "./fields.ts";

export type PageRequest = { readonly pageSize: number; readonly after: string | undefined };

/** What a list shows of its rows. */
export type Shown<Row, Message> = {
  /** In the order of the rows. */
  readonly messages: (rows: readonly Row[]) => Message[];
  readonly type: Encodes<Message>;
};

type Encodes<Message> = {
  readonly encode: (message: Message) => { readonly finish: () => Uint8Array };
};

export function page<Row extends { readonly id: string }, Message>(
  rows: Iterable<Row>,
  { pageSize, after }: PageRequest,
  { messages, type }: Shown<Row, Message>,
): { readonly items: Message[]; readonly nextPageToken: string } {
  const remaining = [...rows].filter((row) => after === undefined || row.id > after);
  remaining.sort((a, b) => (a.id < b.id ? -1 : 1));
  const items = fitting(messages(remaining.slice(0, pageSize)), type);
  const last = remaining[items.length - 1];
  const more = remaining.length > items.length && last !== undefined;
  return { items, nextPageToken: more ? pageToken(last.id) : "" };
}

/** The first messages that PAGE_BYTES hold; at least one, if there is one. */
export function fitting<Message>(
  messages: readonly Message[],
  type: Encodes<Message>,
  maxBytes: number = PAGE_BYTES,
): Message[] {
  let bytes = 0;
  const tooMany = messages.findIndex((message, index) => {
    bytes += type.encode(message).finish().length;
    return bytes > maxBytes && index > 0;
  });
  return tooMany < 0 ? [...messages] : messages.slice(0, tooMany);
}
