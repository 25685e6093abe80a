// Pages: every object once, in order, and no page that a client cannot take.
import fc from "fast-check";
import { expect, it } from "vitest";
import { page } from "../../src/api/page.ts";
import { Event } from "../../src/gen/storagenode/v1/node.ts";
import { PAGE_BYTES } from "../../src/limits.ts";

type Row = { readonly id: string; readonly bytes: number };

const event = (message: string): Event => ({
  id: "1",
  time: undefined,
  objectKind: "",
  objectId: "",
  reason: "",
  before: "",
  after: "",
  message,
  actor: "",
  traceId: "",
});
const shown = {
  messages: (rows: readonly Row[]) => rows.map(({ bytes }) => event("m".repeat(bytes))),
  type: Event,
};

it("a list has every object once, in order, on pages of bounded number and size", () => {
  const sizes = fc.array(fc.constantFrom(1, 100, PAGE_BYTES / 4, PAGE_BYTES / 2, PAGE_BYTES), {
    maxLength: 12,
  });
  fc.assert(
    fc.property(sizes, fc.integer({ min: 1, max: 5 }), (all, pageSize) => {
      const rows = all.map((bytes, index) => ({ id: String.fromCharCode(97 + index), bytes }));
      const got: number[] = [];
      let after: string | undefined;
      do {
        const { items, nextPageToken } = page(rows.toReversed(), { pageSize, after }, shown);
        const bytes = items.reduce((sum, one) => sum + Event.encode(one).finish().length, 0);
        expect(items.length).toBeLessThanOrEqual(pageSize);
        expect(bytes <= PAGE_BYTES || items.length === 1).toBe(true);
        got.push(...items.map(({ message }) => message.length));
        after = Buffer.from(nextPageToken, "base64url").toString() || undefined;
      } while (after !== undefined);
      expect(got).toEqual(all);
    }),
    { numRuns: 30 },
  );
});
