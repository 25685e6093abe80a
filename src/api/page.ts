// Pagination of lists by key: a page starts after the last id of the page before, so rows created
// or deleted between two pages neither repeat nor hide other rows.
import { pageToken } from "./fields.ts";

export type PageRequest = { readonly pageSize: number; readonly after: string | undefined };

export function page<Row extends { readonly id: string }>(
  rows: readonly Row[],
  { pageSize, after }: PageRequest,
): { readonly items: readonly Row[]; readonly nextPageToken: string } {
  const remaining = after === undefined ? [...rows] : rows.filter((row) => row.id > after);
  remaining.sort((a, b) => (a.id < b.id ? -1 : 1));
  const items = remaining.slice(0, pageSize);
  const last = items.at(-1);
  const more = remaining.length > items.length && last !== undefined;
  return { items, nextPageToken: more ? pageToken(last.id) : "" };
}
