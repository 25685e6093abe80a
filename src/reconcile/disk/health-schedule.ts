// When the health page of each controller is read: once in each period, at a place in it that follows from
// the controller's name, so that those of a node are spread over the period. Pure. Times in ms.
import { createHash } from "node:crypto";
import { HEALTH_FIRST_MS } from "../../limits.ts";

/** Of a controller that has just been seen: soon, as nothing is known of it, and not all at once. */
export function firstDue(name: string, now: number, periodMs: number): number {
  return now + fraction(name) * Math.min(HEALTH_FIRST_MS, periodMs);
}

/** The controller's place in a later period, at least half a period from now. */
export function nextDue(name: string, now: number, periodMs: number): number {
  const place = fraction(name) * periodMs;
  return Math.ceil((now + periodMs / 2 - place) / periodMs) * periodMs + place;
}

/** From 0 to 1, the same for all of a controller's life. */
function fraction(name: string): number {
  return createHash("sha256").update(name).digest().readUInt32BE() / 2 ** 32;
}
