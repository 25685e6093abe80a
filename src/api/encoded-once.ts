// Methods whose answers are the same for many callers: each is encoded once.
import type { StreamIostatResponse } from "../gen/storagenode/v1/storage_node.ts";

type Serializes<Answer> = { readonly responseSerialize: (answer: Answer) => Buffer };

/** Caches the encoded bytes per answer object. Handlers must not change an answer they returned. */
export function encodedOnce<Definition extends { responseSerialize: (answer: never) => Buffer }>(
  definition: Definition,
): Definition {
  const encoded = new WeakMap<object, Buffer>();
  const responseSerialize = (answer: object & Parameters<Definition["responseSerialize"]>[0]) => {
    const known = encoded.get(answer);
    if (known !== undefined) return known;
    const bytes = definition.responseSerialize(answer);
    encoded.set(answer, bytes);
    return bytes;
  };
  return { ...definition, responseSerialize };
}

/**
 * Caches the encoded bytes per list of counters, which readers share; what differs between them is
 * appended. Handlers must not change a list they returned.
 */
export function iostatsEncodedOnce<Definition extends Serializes<StreamIostatResponse>>(
  definition: Definition,
): Definition {
  const encoded = new WeakMap<object, Buffer>();
  const responseSerialize = ({ time, iostats, dropped }: StreamIostatResponse) => {
    const known = encoded.get(iostats);
    const bytes = known ?? definition.responseSerialize({ time, iostats, dropped: 0n });
    if (known === undefined) encoded.set(iostats, bytes);
    if (dropped === 0n) return bytes;
    // Fields of a message may stand in any order, one after another.
    const own = definition.responseSerialize({ time: undefined, iostats: [], dropped });
    return Buffer.concat([bytes, own]);
  };
  return { ...definition, responseSerialize };
}
