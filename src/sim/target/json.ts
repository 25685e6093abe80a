// JSON parser with SPDK's rules: values follow each other without separators, duplicate keys and
// the text of numbers are preserved, an incomplete value is distinguished from invalid JSON. Works
// on latin1 text, one character per byte; strings are decoded as UTF-8 at the end.

import { isUtf8 } from "node:buffer";

/** A number with its text from the request: the decoder decides whether 8.0 is an integer. */
export class JsonNumber {
  readonly text: string;

  constructor(text: string) {
    this.text = text;
  }
}

export class JsonObject {
  readonly entries: readonly (readonly [string, JsonValue])[];

  constructor(entries: readonly (readonly [string, JsonValue])[]) {
    this.entries = entries;
  }

  /** The first value of a key; undefined if there is none. */
  get(key: string): JsonValue | undefined {
    return this.entries.find(([name]) => name === key)?.[1];
  }
}

export type JsonValue = null | boolean | string | JsonNumber | JsonObject | readonly JsonValue[];

export type Parsed =
  | { readonly kind: "value"; readonly value: JsonValue; readonly end: number }
  | { readonly kind: "incomplete" }
  | { readonly kind: "invalid" };

const INCOMPLETE = Symbol("incomplete");
const INVALID = Symbol("invalid");

const BLANK = /[ \t\r\n]*/y;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const NUMBER_BEGUN = /-?(?:(?:0|[1-9]\d*)(?:\.\d*)?(?:[eE][+-]?\d*)?)?$/y;
const STRING = /"((?:[ !#-[\]-\xff]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*)"/y;
const STRING_BEGUN =
  /"(?:[ !#-[\]-\xff]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*(?:\\(?:u[0-9a-fA-F]{0,3})?)?$/y;
const WORDS: readonly (readonly [string, null | boolean])[] = [
  ["true", true],
  ["false", false],
  ["null", null],
];

/** Parses one value at `position` after blanks. More than `maxValues` nested values are invalid. */
export function parseJson(text: string, position: number, maxValues: number): Parsed {
  const reader = new Reader(text, position, maxValues);
  try {
    const value = reader.value(0);
    return { kind: "value", value, end: reader.position };
  } catch (reason) {
    if (reason === INCOMPLETE) return { kind: "incomplete" };
    if (reason === INVALID) return { kind: "invalid" };
    throw reason;
  }
}

class Reader {
  readonly #text: string;
  position: number;
  readonly #maxValues: number;
  #values = 0;

  constructor(text: string, position: number, maxValues: number) {
    this.#text = text;
    this.position = position;
    this.#maxValues = maxValues;
  }

  value(depth: number): JsonValue {
    this.#values += 1;
    if (this.#values > this.#maxValues || depth > 64) throw INVALID;
    this.#skipBlanks();
    const first = this.#text[this.position];
    if (first === undefined) throw INCOMPLETE;
    if (first === "{") return this.#object(depth);
    if (first === "[") return this.#array(depth);
    if (first === '"') return this.#string();
    if (first === "-" || (first >= "0" && first <= "9")) return this.#number(depth);
    return this.#word();
  }

  #object(depth: number): JsonObject {
    const entries: [string, JsonValue][] = [];
    this.position += 1;
    if (this.#next() === "}") return this.#closed(new JsonObject(entries));
    for (;;) {
      if (this.#next() !== '"') throw INVALID;
      this.#values += 1;
      const key = this.#string();
      if (this.#next() !== ":") throw INVALID;
      this.position += 1;
      entries.push([key, this.value(depth + 1)]);
      const after = this.#next();
      if (after === "}") return this.#closed(new JsonObject(entries));
      if (after !== ",") throw INVALID;
      this.position += 1;
    }
  }

  #array(depth: number): readonly JsonValue[] {
    const items: JsonValue[] = [];
    this.position += 1;
    if (this.#next() === "]") return this.#closed(items);
    for (;;) {
      items.push(this.value(depth + 1));
      const after = this.#next();
      if (after === "]") return this.#closed(items);
      if (after !== ",") throw INVALID;
      this.position += 1;
    }
  }

  #closed<T>(value: T): T {
    this.position += 1;
    return value;
  }

  #string(): string {
    STRING.lastIndex = this.position;
    const match = STRING.exec(this.#text);
    if (match === null) {
      STRING_BEGUN.lastIndex = this.position;
      throw STRING_BEGUN.test(this.#text) ? INCOMPLETE : INVALID;
    }
    this.position = STRING.lastIndex;
    const bytes = Buffer.from(match[0], "latin1");
    if (!isUtf8(bytes)) throw INVALID;
    const decoded: unknown = JSON.parse(bytes.toString("utf8"));
    if (typeof decoded !== "string") throw INVALID;
    return decoded;
  }

  /** A number at the end of the text is incomplete: more digits may follow. */
  #number(depth: number): JsonNumber {
    NUMBER.lastIndex = this.position;
    const match = NUMBER.exec(this.#text);
    const end = match === null ? this.position : NUMBER.lastIndex;
    if (match === null || (end === this.#text.length && depth >= 0)) {
      NUMBER_BEGUN.lastIndex = this.position;
      throw NUMBER_BEGUN.test(this.#text) ? INCOMPLETE : INVALID;
    }
    this.position = end;
    return new JsonNumber(match[0]);
  }

  #word(): null | boolean {
    for (const [word, value] of WORDS) {
      const found = this.#text.slice(this.position, this.position + word.length);
      if (found === word) {
        this.position += word.length;
        return value;
      }
      if (word.startsWith(found)) throw INCOMPLETE;
    }
    throw INVALID;
  }

  /** The next non-blank character. */
  #next(): string {
    this.#skipBlanks();
    const next = this.#text[this.position];
    if (next === undefined) throw INCOMPLETE;
    return next;
  }

  #skipBlanks(): void {
    BLANK.lastIndex = this.position;
    BLANK.test(this.#text);
    this.position = BLANK.lastIndex;
  }
}

/** Whether a string stands anywhere in the value, keys aside. */
export function mentions(value: JsonValue | undefined, text: string): boolean {
  if (value instanceof JsonObject) return value.entries.some(([, item]) => mentions(item, text));
  if (value instanceof JsonNumber || value === undefined || value === null) return false;
  return typeof value === "object" ? value.some((item) => mentions(item, text)) : value === text;
}

/** The JSON text of a value, for request ids, which are echoed unchanged. */
export function toText(value: JsonValue): string {
  if (value instanceof JsonNumber) return value.text;
  if (value instanceof JsonObject) {
    const parts = value.entries.map(([key, item]) => `${JSON.stringify(key)}:${toText(item)}`);
    return `{${parts.join(",")}}`;
  }
  if (typeof value === "object" && value !== null) return `[${value.map(toText).join(",")}]`;
  return JSON.stringify(value);
}
