// Compares an answer with a recorded one: strict in type, fields, order and length, except where
// the recording holds a matcher ($any, $save, ${name}, $partial, $unordered, $contains).
import type { Json } from "./transcript.ts";

/** Values by name: preset, or saved from answers by $save. */
export type Bindings = Map<string, Json>;

type JsonObject = { readonly [key: string]: Json };

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

const TYPES: Readonly<Record<string, (value: Json) => boolean>> = {
  uuid: (value) => typeof value === "string" && UUID.test(value),
  int: (value) => Number.isInteger(value),
  uint: (value) => Number.isInteger(value) && Number(value) >= 0,
  bool: (value) => typeof value === "boolean",
  string: (value) => typeof value === "string",
  number: (value) => typeof value === "number",
  object: isObject,
  array: Array.isArray,
  hex: (value) => typeof value === "string" && /^[0-9A-F]+$/.test(value),
  version: (value) => typeof value === "string" && value.startsWith("SPDK v"),
};

/** Returns one line per difference; stores the values that the recording saves. */
export function differences(
  want: Json,
  got: Json | undefined,
  bound: Bindings,
  path: string,
): string[] {
  if (got === undefined) return [`${path}: missing`];
  if (typeof want === "string") return differencesOfText(want, got, bound, path);
  if (Array.isArray(want)) return differencesOfList(want, got, bound, path);
  if (isObject(want)) return differencesOfObject(want, got, bound, path);
  return Object.is(want, got) ? [] : [`${path}: want ${short(want)}, got ${short(got)}`];
}

function differencesOfText(want: string, got: Json, bound: Bindings, path: string): string[] {
  const [, verb, name, type] = /^\$(any|save):?([^:]*):?(.*)$/.exec(want) ?? [];
  if (verb === "any")
    return hasType(name ?? "", got) ? [] : [`${path}: want ${want}, got ${short(got)}`];
  if (verb === "save" && name !== undefined) {
    if (!hasType(type ?? "", got)) return [`${path}: want a ${type}, got ${short(got)}`];
    const before = bound.get(name);
    if (before !== undefined && before !== got) {
      return [`${path}: want ${name} = ${short(before)}, got ${short(got)}`];
    }
    bound.set(name, got);
    return [];
  }
  const text = fill(want, bound);
  return text === got ? [] : [`${path}: want ${short(text)}, got ${short(got)}`];
}

function differencesOfList(
  want: readonly Json[],
  got: Json,
  bound: Bindings,
  path: string,
): string[] {
  if (!Array.isArray(got)) return [`${path}: want an array, got ${short(got)}`];
  const length =
    want.length === got.length ? [] : [`${path}: want ${want.length} elements, got ${got.length}`];
  const elements = want
    .slice(0, got.length)
    .flatMap((one, index) => differences(one, got[index], bound, `${path}[${index}]`));
  return [...length, ...elements];
}

function differencesOfObject(want: JsonObject, got: Json, bound: Bindings, path: string): string[] {
  const [operator, ...others] = Object.keys(want);
  const operand = others.length === 0 && operator !== undefined ? want[operator] : undefined;
  if (operator === "$partial" && isObject(operand)) return fields(operand, got, bound, path);
  if ((operator === "$unordered" || operator === "$contains") && Array.isArray(operand)) {
    return unordered(operand, got, bound, { path, all: operator === "$unordered" });
  }
  const known = fields(want, got, bound, path);
  if (!isObject(got)) return known;
  const extra = Object.keys(got).filter((key) => !(key in want));
  return [...known, ...extra.map((key) => `${path}: unexpected field ${key}`)];
}

function fields(want: JsonObject, got: Json, bound: Bindings, path: string): string[] {
  if (!isObject(got)) return [`${path}: want an object, got ${short(got)}`];
  return Object.entries(want).flatMap(([key, value]) =>
    differences(value, got[key], bound, `${path}.${key}`),
  );
}

/** Matches each wanted element with the first unmatched element that fits. */
function unordered(
  want: readonly Json[],
  got: Json,
  bound: Bindings,
  { path, all }: { readonly path: string; readonly all: boolean },
): string[] {
  if (!Array.isArray(got)) return [`${path}: want an array, got ${short(got)}`];
  const unmatched = [...got];
  const found: string[] = [];
  for (const one of want) {
    const at = unmatched.findIndex((candidate) => {
      const trial = new Map(bound);
      if (differences(one, candidate, trial, path).length > 0) return false;
      for (const [name, value] of trial) bound.set(name, value);
      return true;
    });
    if (at < 0) found.push(`${path}: no element matches ${short(one)}`);
    else unmatched.splice(at, 1);
  }
  if (all && unmatched.length > 0) {
    found.push(`${path}: ${unmatched.length} unexpected elements`);
  }
  return found;
}

/** Substitutes bound values: ${name}, or ${name|nguid} for a uuid in NGUID form. */
export function fill(text: string, bound: Bindings): string {
  return text.replaceAll(/\$\{([^}|]+)(\|nguid)?\}/g, (_whole, name: string, nguid?: string) => {
    const value = bound.get(name);
    if (value === undefined) throw new Error(`no value is bound to ${name}`);
    const text = typeof value === "string" ? value : JSON.stringify(value);
    return nguid === undefined ? text : text.replaceAll("-", "").toUpperCase();
  });
}

function hasType(type: string, value: Json): boolean {
  return type === "" || TYPES[type]?.(value) === true;
}

export function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function short(value: Json): string {
  const text = JSON.stringify(value);
  return text.length < 200 ? text : `${text.slice(0, 200)}...`;
}
