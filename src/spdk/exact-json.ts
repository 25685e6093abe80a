// JSON with exact 64-bit integers. SPDK writes counters and ticks as bare numbers, and some exceed
// 2^53 (docs/spdk-contract.md#bdevs), which JSON.parse alone rounds silently.

/**
 * Like JSON.parse, but integers outside the safe range become bigint. All other numbers stay
 * numbers, so a reader of a 64-bit field has to accept both types. Throws SyntaxError.
 */
export function parseExactJson(text: string): unknown {
  // The reviver takes several times as long as the parse, so it runs only if the text may contain a
  // number beyond 2^53. A match inside a string is a false positive that costs only time.
  return LONG_NUMBER.test(text) ? JSON.parse(text, keepExact) : JSON.parse(text);
}

/** Numbers of 16 digits that start with 9, or of 17 and more: 2^53 is 9,007,199,254,740,992. */
const LONG_NUMBER = /[:,[]\s*-?(?:9\d{15}|\d{17})/;
const INTEGER = /^-?\d+$/;

function keepExact(_key: string, value: unknown, context?: { readonly source?: string }): unknown {
  if (typeof value !== "number" || Number.isSafeInteger(value)) return value;
  const source = context?.source;
  return source !== undefined && INTEGER.test(source) ? BigInt(source) : value;
}
