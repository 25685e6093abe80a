// JSON with exact 64-bit integers. SPDK writes counters and ticks as bare numbers, and some lie
// beyond 2^53 (CONTRACT sections 3 and 4), where JSON.parse alone would round them silently.

/**
 * Like JSON.parse, but an integer outside of the safe range comes out as a bigint. All other
 * numbers stay numbers, so a reader of a 64-bit field accepts both. Throws SyntaxError.
 */
export function parseExactJson(text: string): unknown {
  // The reviver costs several times the parse, so it runs only where a long number can be. A
  // match inside a string is possible and only costs time.
  return LONG_NUMBER.test(text) ? JSON.parse(text, keepExact) : JSON.parse(text);
}

/** 2^53 is 9,007,199,254,740,992. */
const LONG_NUMBER = /[:,[]\s*-?(?:9\d{15}|\d{17})/;
const INTEGER = /^-?\d+$/;

function keepExact(_key: string, value: unknown, context?: { readonly source?: string }): unknown {
  if (typeof value !== "number" || Number.isSafeInteger(value)) return value;
  const source = context?.source;
  return source !== undefined && INTEGER.test(source) ? BigInt(source) : value;
}
