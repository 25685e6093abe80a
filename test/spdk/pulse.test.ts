// When a target counts as silent: by the time since its last answer, whatever was asked.
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { TARGET_LOAD_SILENT_MS } from "../../src/limits.ts";
import { Pulse } from "../../src/spdk/pulse.ts";

const LIMIT_MS = 10_000;

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

/** A connection to a target that answers when told to. */
function connection() {
  const waiting: { readonly method: string; readonly sentMs: number }[] = [];
  const state = { connected: true, connectionNumber: 1, answers: 0, asked: 0 };
  const sent = (method: string) => void waiting.push({ method, sentMs: performance.now() });
  return {
    state,
    sent,
    answer: () => {
      state.answers += 1;
      waiting.splice(0, 1);
    },
    of: {
      get connected() {
        return state.connected;
      },
      get connectionNumber() {
        return state.connectionNumber;
      },
      get answers() {
        return state.answers;
      },
      waiting: () => waiting.values(),
      call: (method: string) => {
        state.asked += 1;
        sent(method);
        const never = new Promise<never>(() => {});
        return { outcome: never, settled: never };
      },
    },
  };
}

function pulseOf({ of }: ReturnType<typeof connection>) {
  const changes: boolean[] = [];
  const pulse: Pulse = new Pulse({
    connection: of,
    silenceMs: LIMIT_MS,
    onChange: () => changes.push(pulse.silentSince !== undefined),
  });
  return { pulse, changes, [Symbol.dispose]: () => pulse[Symbol.dispose]() };
}

describe("the pulse of the target", () => {
  it("is gone within the limit when requests are taken and not answered, and back with one answer", () => {
    const target = connection();
    using observed = pulseOf(target);
    const { pulse, changes } = observed;
    vi.advanceTimersByTime(500);
    const last = new Date();
    target.sent("notify_get_notifications");
    vi.advanceTimersByTime(LIMIT_MS - 1_000);
    expect(changes).toEqual([]);
    vi.advanceTimersByTime(1_000);
    expect(changes).toEqual([true]);
    const since = pulse.silentSince?.getTime() ?? 0;
    expect(Math.abs(since - last.getTime())).toBeLessThanOrEqual(LIMIT_MS / 20);
    target.answer();
    vi.advanceTimersByTime(500);
    expect(changes).toEqual([true, false]);
  });

  it("asks one small question, and only when nothing else was asked", () => {
    const target = connection();
    using observed = pulseOf(target);
    const { changes } = observed;
    for (let second = 0; second < 60; second += 2) {
      target.sent("notify_get_notifications");
      vi.advanceTimersByTime(100);
      target.answer();
      vi.advanceTimersByTime(1_900);
    }
    expect(target.state.asked).toBe(0);
    vi.advanceTimersByTime(LIMIT_MS);
    expect({ asked: target.state.asked, changes }).toEqual({ asked: 1, changes: [true] });
  });

  it("is not gone while the target may be loading a store, but not for ever", () => {
    const target = connection();
    using observed = pulseOf(target);
    const { pulse, changes } = observed;
    target.sent("bdev_nvme_attach_controller");
    vi.advanceTimersByTime(TARGET_LOAD_SILENT_MS - 1_000);
    expect({ changes, loads: pulse.loads }).toEqual({ changes: [], loads: true });
    vi.advanceTimersByTime(2_000);
    expect(changes).toEqual([true]);
  });

  it("is not gone because this process stood still", () => {
    const target = connection();
    using observed = pulseOf(target);
    const { changes } = observed;
    target.sent("notify_get_notifications");
    vi.advanceTimersByTime(1_000);
    // The clocks go on, the timers do not.
    const now = performance.now();
    vi.spyOn(performance, "now").mockImplementation(() => now + 3_600_000);
    vi.advanceTimersToNextTimer();
    vi.restoreAllMocks();
    expect(changes).toEqual([]);
  });

  it("begins anew with each connection", () => {
    const target = connection();
    using observed = pulseOf(target);
    const { pulse, changes } = observed;
    target.sent("notify_get_notifications");
    vi.advanceTimersByTime(LIMIT_MS);
    target.state.connected = false;
    expect(pulse.silentSince).toBeUndefined();
    vi.advanceTimersByTime(500);
    expect(changes).toEqual([true, false]);
  });
});
