// When to try the target's socket again: quickly at first, because a restarted target is back in
// 0.3 to 1.5 s and every export waits for it, then ever more rarely.

/** A socket that was made just now is listened on in a moment. */
const AT_ONCE_MS = 5;
const AT_ONCE_FOR_MS = 500;
const QUICK_MS = 50;
const QUICK_FOR_MS = 10_000;
const SLOWEST_MS = 5_000;

type ReconnectFacts = { readonly appearedForMs?: number; readonly random?: () => number };

/**
 * @param lostForMs time since the connection was lost, or was first wanted
 * @param appearedForMs time since the socket was seen to be made anew
 * @param random 0..1, spreads the slow attempts over the upper half of their delay
 */
export function reconnectDelayMs(
  lostForMs: number,
  { appearedForMs = Number.POSITIVE_INFINITY, random = Math.random }: ReconnectFacts = {},
): number {
  if (appearedForMs < AT_ONCE_FOR_MS) return AT_ONCE_MS;
  if (lostForMs < QUICK_FOR_MS) return QUICK_MS;
  // Waiting again for as long as has been waited since the quick attempts doubles each delay.
  const delayMs = Math.min(Math.max(lostForMs - QUICK_FOR_MS, 2 * QUICK_MS), SLOWEST_MS);
  return delayMs * (0.5 + random() / 2);
}
