// Lists are paged by key: a page starts behind the last id of the one before, so rows that come and
// go between two pages are neither repeated nor do they hide others.
import { pageToken } from "./fields.ts";

export type PageRequest = { readonly pageSize: number; readonly after: string | undefined };

export function page<Row extends { readonly id: string }>(
  rows: readonly Row[],
  { pageSize, after }: PageRequest,
): { readonly items: readonly Row[]; readonly nextPageToken: string } {
  const behind = after === undefined ? [...rows] : rows.filter((row) => row.id > after);
  behind.sort((a, b) => (a.id < b.id ? -1 : 1));
  const items = behind.slice(0, pageSize);
  const last = items.at(-1);
  const more = behind.length > items.length && last !== undefined;
  return { items, nextPageToken: more ? pageToken(last.id) : "" };
}
