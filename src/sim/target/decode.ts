// Strict decoding of params (docs/spdk-contract.md#strict-decoding). Refused are an unknown,
// duplicate or missing field, null for a string, 1.5 or -1 for an unsigned, 0 for false. The method
// chooses the error code.
import { JsonNumber, JsonObject, type JsonValue } from "./json.ts";

/** The params do not have the shape that the method accepts. */
export class DecodeFailed extends Error {
  constructor(message: string) {
    super(message);
    this.name = "DecodeFailed";
  }
}

export type Field<T> = {
  readonly read: (value: JsonValue) => T;
  readonly required: boolean;
};

type Shape = Readonly<Record<string, Field<unknown>>>;

/** Absent optional fields are undefined. */
export type Decoded<S extends Shape> = {
  readonly [Key in keyof S]: S[Key] extends Field<infer T> ? T : never;
};

export type DecodeOptions = {
  /** Ignore unknown fields (nvmf_create_transport, add_host, the top level of add_ns). */
  readonly tolerant?: boolean;
};

/** Decodes params; absent and null count as an empty object. Throws DecodeFailed. */
export function decode<S extends Shape>(
  params: JsonValue | undefined,
  shape: S,
  { tolerant = false }: DecodeOptions = {},
): Decoded<S> {
  const object = params === undefined || params === null ? new JsonObject([]) : params;
  if (!(object instanceof JsonObject)) throw new DecodeFailed("not an object");
  const values = new Map<string, unknown>();
  for (const [key, value] of object.entries) {
    const field = shape[key];
    if (field === undefined) {
      if (tolerant) continue;
      throw new DecodeFailed(`unknown field ${key}`);
    }
    if (values.has(key)) throw new DecodeFailed(`duplicate field ${key}`);
    values.set(key, field.read(value));
  }
  for (const [key, field] of Object.entries(shape)) {
    if (field.required && !values.has(key)) throw new DecodeFailed(`missing field ${key}`);
  }
  const decoded: unknown = Object.fromEntries(values);
  // Every key of the shape was decoded by its own field, or is optional and absent.
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion
  return decoded as Decoded<S>;
}

export function required<T>(read: (value: JsonValue) => T): Field<T> {
  return { read, required: true };
}

export function optional<T>(read: (value: JsonValue) => T): Field<T | undefined> {
  return { read, required: false };
}

export function text(value: JsonValue): string {
  if (typeof value !== "string") throw new DecodeFailed("not a string");
  return value;
}

export function flag(value: JsonValue): boolean {
  if (typeof value !== "boolean") throw new DecodeFailed("not a bool");
  return value;
}

/** An unsigned integer of `bits` bits. SPDK accepts 2.0 and 2e1 as integers. */
export function unsigned(bits: 8 | 16 | 32 | 64): (value: JsonValue) => number {
  return (value) => {
    const number = value instanceof JsonNumber ? Number(value.text) : Number.NaN;
    if (!Number.isInteger(number) || number < 0 || number >= 2 ** bits) {
      throw new DecodeFailed(`not an unsigned ${bits}-bit integer`);
    }
    return number;
  };
}

export function integer(value: JsonValue): number {
  const number = value instanceof JsonNumber ? Number(value.text) : Number.NaN;
  if (!Number.isInteger(number) || Math.abs(number) >= 2 ** 31) {
    throw new DecodeFailed("not a 32-bit integer");
  }
  return number;
}

export function oneOf<const T extends string>(...allowed: readonly T[]): (value: JsonValue) => T {
  return (value) => {
    const found = allowed.find((one) => one === value);
    if (found === undefined) throw new DecodeFailed(`not one of ${allowed.join(", ")}`);
    return found;
  };
}

export function list<T>(read: (value: JsonValue) => T): (value: JsonValue) => readonly T[] {
  return (value) => {
    if (typeof value !== "object" || value === null) throw new DecodeFailed("not an array");
    if (value instanceof JsonNumber || value instanceof JsonObject) {
      throw new DecodeFailed("not an array");
    }
    return value.map(read);
  };
}

export function object<S extends Shape>(shape: S): (value: JsonValue) => Decoded<S> {
  return (value) => {
    if (!(value instanceof JsonObject)) throw new DecodeFailed("not an object");
    return decode(value, shape);
  };
}
