// Readers from `unknown` to exact types. They check every field they name and ignore all others,
// because releases add fields (docs/spdk-contract.md#interface). An error names the place of the
// value in the reply, never the value.

/** Place of a value in a reply, as a linked list: the path text is built only for an error. */
export type Place = { readonly within?: Place; readonly key: string };

export type Read<T> = (value: unknown, place: Place) => T;

/** A reply does not have the shape of SPDK's contract. */
export class ReplyFault extends Error {
  constructor(place: Place, wanted: string) {
    super(`${pathOf(place)} is not ${wanted}`);
    this.name = "ReplyFault";
  }
}

export const text: Read<string> = (value, place) => {
  if (typeof value !== "string") throw new ReplyFault(place, "a string");
  return value;
};

export const flag: Read<boolean> = (value, place) => {
  if (typeof value !== "boolean") throw new ReplyFault(place, "a boolean");
  return value;
};

/** A safe integer: ids, counts, percentages. Not for bytes or blocks, see `big`. */
export const integer: Read<number> = (value, place) => {
  if (!Number.isSafeInteger(value)) throw new ReplyFault(place, "a safe integer");
  return Number(value);
};

/** Bytes, blocks, clusters, ticks, counters: an unsigned integer of any size (exact-json.ts). */
export const big: Read<bigint> = (value, place) => {
  if (typeof value === "bigint" && value >= 0n) return value;
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return BigInt(value);
  throw new ReplyFault(place, "an unsigned integer");
};

export function list<T>(read: Read<T>): Read<readonly T[]> {
  return (value, place) => {
    if (!Array.isArray(value)) throw new ReplyFault(place, "a list");
    return value.map((item: unknown, index) => read(item, { within: place, key: String(index) }));
  };
}

export function object<T>(read: (fields: Fields) => T): Read<T> {
  return (value, place) => read(new Fields(value, place));
}

/** An object whose keys are data, e.g. error kinds with their counts. */
export function record<T>(read: Read<T>): Read<Readonly<Record<string, T>>> {
  return (value, place) => {
    if (!isObject(value)) throw new ReplyFault(place, "an object");
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [key, read(item, { within: place, key })]),
    );
  };
}

export class Fields {
  readonly #object: Readonly<Record<string, unknown>>;
  readonly #place: Place;

  constructor(value: unknown, place: Place) {
    if (!isObject(value)) throw new ReplyFault(place, "an object");
    this.#object = value;
    this.#place = place;
  }

  get<T>(key: string, read: Read<T>): T {
    return read(this.#object[key], { within: this.#place, key });
  }

  /** Undefined if the field is missing, as it is in some releases or for some objects. */
  optional<T>(key: string, read: Read<T>): T | undefined {
    return this.#object[key] === undefined ? undefined : this.get(key, read);
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function pathOf({ within, key }: Place): string {
  return within === undefined ? key : `${pathOf(within)}.${key}`;
}
