// Texts of others in what the agent says and keeps: never longer than it has room for.
import { Buffer } from "node:buffer";

/**
 * At most so many bytes of a text as UTF-8, with the number of those left out. Halves of surrogate pairs, which
 * cannot be encoded, are replaced.
 */
export function cutText(text: string, maxBytes: number): string {
  const whole = text.isWellFormed() ? text : text.toWellFormed();
  const bytes = Buffer.byteLength(whole);
  if (bytes <= maxBytes) return whole;
  const more = `… (${bytes - maxBytes} more bytes)`;
  const kept = Buffer.from(whole.slice(0, maxBytes)).subarray(0, maxBytes);
  // Not in the middle of a character.
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(kept, { stream: true }) + more;
}
