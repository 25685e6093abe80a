// Delay before the next attempt to connect to the target's socket: short at first, because a
// restarted target is back in 0.3 to 1.5 s and no export is restored before that, then
// exponentially longer.
import { RECONNECT_QUICK_FOR_MS, RECONNECT_QUICK_MS, RECONNECT_SLOW_MS } from "../limits.ts";

/** A target creates its socket file a moment before it listens: retry quickly for a short time. */
const NEW_SOCKET_MS = 5;
const NEW_SOCKET_FOR_MS = 500;

type ReconnectFacts = { readonly socketAgeMs?: number; readonly random?: () => number };

/**
 * Milliseconds.
 * @param lostForMs time since the connection was lost, or since the first attempt
 * @param socketAgeMs time since the target's socket file was created
 * @param random 0..1, spreads the slow attempts over the upper half of their delay
 */
export function reconnectDelayMs(
  lostForMs: number,
  { socketAgeMs = Number.POSITIVE_INFINITY, random = Math.random }: ReconnectFacts = {},
): number {
  if (socketAgeMs < NEW_SOCKET_FOR_MS) return NEW_SOCKET_MS;
  if (lostForMs < RECONNECT_QUICK_FOR_MS) return RECONNECT_QUICK_MS;
  // A delay equal to the time since the end of the quick attempts doubles with each attempt.
  const delayMs = Math.min(
    Math.max(lostForMs - RECONNECT_QUICK_FOR_MS, 2 * RECONNECT_QUICK_MS),
    RECONNECT_SLOW_MS,
  );
  return delayMs * (0.5 + random() / 2);
}
