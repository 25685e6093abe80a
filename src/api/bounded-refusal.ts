// Cuts a refusal to what the trailers of an answer may have: a client closes its connection, and ends all
// calls on it, over trailers that are larger than it takes. Texts are cut and lists end early, and each says
// how much was left out.
import { MAX_LISTED, MAX_TOLD_BYTES, REFUSAL_BYTES } from "../limits.ts";
import { cutText } from "../cut-text.ts";
import type { Refusal, RefusalDetails } from "../model/errors.ts";

export type BoundedRefusal = Pick<Refusal, "reason" | "code" | "message" | "details">;

/** The longest message: percent-encoded it takes up to three times as many bytes. */
const MESSAGE_BYTES = 1_000;

/** What a type name, keys and lengths add to the texts of an item. */
const ITEM_BYTES = 16;
const MORE_BYTES = 200;

type Texts = Readonly<Record<string, string>>;

/** Its message and details, encoded, take up to REFUSAL_BYTES. */
export function bounded({ reason, code, message, details }: Refusal): BoundedRefusal {
  const told = cutText(message, MESSAGE_BYTES);
  const metadata = cutTexts(details.metadata ?? {});
  // The message is sent twice, and the details as base64.
  const left = ((REFUSAL_BYTES - encodeURI(told).length) * 3) / 4 - Buffer.byteLength(told);
  const room = new Room(left - sizeOf(metadata) - MORE_BYTES);
  const lists = {
    fields: room.fill(details.fields),
    preconditions: room.fill(details.preconditions),
    quota: room.fill(details.quota),
  };
  const more = Object.entries(lists).flatMap(([name, list]) => {
    const count = (list?.left ?? 0) + Number(metadata[`more_${name}`] ?? 0);
    return count === 0 ? [] : [[`more_${name}`, String(count)]];
  });
  const { fields, preconditions, quota } = lists;
  return {
    reason,
    code,
    message: told,
    details: {
      ...(fields && { fields: fields.items }),
      ...(preconditions && { preconditions: preconditions.items }),
      ...(quota && { quota: quota.items }),
      ...(details.retryAfterMs !== undefined && { retryAfterMs: details.retryAfterMs }),
      metadata: { ...metadata, ...Object.fromEntries(more) },
    } satisfies RefusalDetails,
  };
}

function cutTexts<Item extends Texts>(item: Item): Item;
function cutTexts(item: Texts): Texts {
  const cut = Object.entries(item).map(([name, text]) => [name, cutText(text, MAX_TOLD_BYTES)]);
  return Object.fromEntries(cut);
}

/** The bytes that lists of items may still take. */
class Room {
  #bytes: number;

  constructor(bytes: number) {
    this.#bytes = bytes;
  }

  fill<Item extends Texts>(
    items: readonly Item[] | undefined,
  ): { readonly items: readonly Item[]; readonly left: number } | undefined {
    if (items === undefined) return undefined;
    const kept: Item[] = [];
    for (const item of items.slice(0, MAX_LISTED)) {
      const cut = cutTexts(item);
      const size = sizeOf(cut);
      if (size > this.#bytes) break;
      this.#bytes -= size;
      kept.push(cut);
    }
    return { items: kept, left: items.length - kept.length };
  }
}

function sizeOf(item: Texts): number {
  const texts = Object.entries(item).flat();
  return texts.reduce((sum, text) => sum + Buffer.byteLength(text), ITEM_BYTES);
}
