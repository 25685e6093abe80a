// Readers from `unknown` to exact types: strict on every field that is named, silent on the rest,
// as releases add fields (VERSIONS section 2). A reader says where it failed, never what it read.

/** Where a value stands in a reply. Links, so that a path is only spelled out on failure. */
export type Place = { readonly within?: Place; readonly key: string };

export type Read<T> = (value: unknown, place: Place) => T;

/** A reply that is not what SPDK's contract says. */
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

/** A small number: ids, counts, percentages. Never bytes or blocks. */
export const integer: Read<number> = (value, place) => {
  if (!Number.isSafeInteger(value)) throw new ReplyFault(place, "a safe integer");
  return Number(value);
};

/** Bytes, blocks, clusters, ticks, counters: any unsigned integer, exactly (exact-json.ts). */
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

  /** A field that some releases, or some objects, do not have. */
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
