// A component of health: what a round trip that does not end means for it.
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Component } from "../../src/store/component.ts";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

it("is not ok while a round trip takes longer than it may, since that began", () => {
  const component = new Component("not tried yet", { limitMs: 1_000 });
  expect(component.status).toMatchObject({ ok: false, reason: "not tried yet" });
  component.set(true, "");
  component.begin();
  const begun = new Date();
  vi.advanceTimersByTime(1_000);
  expect(component.status.ok).toBe(true);
  vi.advanceTimersByTime(1);
  const reason = `no answer since ${begun.toISOString()}`;
  expect(component.status).toEqual({ ok: false, reason, since: begun });
  component.end();
  expect(component.status.ok).toBe(true);
});

it("keeps the time of its last transition, not of its last reason", () => {
  const component = new Component("not tried yet");
  const { since } = component.status;
  vi.advanceTimersByTime(5_000);
  component.set(false, "refused");
  expect(component.status).toEqual({ ok: false, reason: "refused", since });
  component.set(true, "");
  expect(component.status.since).toEqual(new Date());
});

it("fails since the round trip began that took too long, whatever it answers in the end", () => {
  const component = new Component("", { limitMs: 1_000, ok: true });
  vi.advanceTimersByTime(60_000);
  component.begin();
  const begun = new Date();
  vi.advanceTimersByTime(20_000);
  component.set(false, "timeout");
  expect(component.status).toEqual({ ok: false, reason: "timeout", since: begun });
  component.begin();
  vi.advanceTimersByTime(20_000);
  component.set(true, "");
  expect(component.status).toEqual({ ok: true, reason: "", since: new Date() });
  component.begin();
  vi.advanceTimersByTime(20_000);
  component.end();
  expect(component.status).toEqual({ ok: true, reason: "", since: new Date() });
});
