// When to try the target's socket again: quickly at first, because a restarted target is back in
// 0.3 to 1.5 s and every export waits for it, then ever more rarely.

const QUICK_MS = 50;
const QUICK_FOR_MS = 10_000;
const SLOWEST_MS = 5_000;

/**
 * @param lostForMs time since the connection was lost, or was first wanted
 * @param random 0..1, spreads the slow attempts over the upper half of their delay
 */
export function reconnectDelayMs(lostForMs: number, random: () => number = Math.random): number {
  if (lostForMs < QUICK_FOR_MS) return QUICK_MS;
  // Waiting again for as long as has been waited since the quick attempts doubles each delay.
  const delayMs = Math.min(Math.max(lostForMs - QUICK_FOR_MS, 2 * QUICK_MS), SLOWEST_MS);
  return delayMs * (0.5 + random() / 2);
}
