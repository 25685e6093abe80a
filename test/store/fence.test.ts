import { expect, it } from "vitest";
import { Fence } from "../../src/store/fence.ts";

it("calls listeners at the renewal of a lease that a reader found expired", () => {
  let nowMs = 0;
  const fence = new Fence(() => nowMs);
  fence.setLock(true);
  fence.setLease(1n, 100);
  const reported: string[] = [];
  fence.onChange(() => reported.push(fence.writeMode));
  nowMs = 150;
  // A caller reads the write mode after the expiry.
  expect(fence.writeMode).toBe("read-only");
  fence.setLease(1n, 300);
  expect(reported).toEqual(["read-write"]);
});

it("does not call listeners at the renewal of a lease whose expiry no reader found", () => {
  let nowMs = 0;
  const fence = new Fence(() => nowMs);
  fence.setLock(true);
  fence.setLease(1n, 100);
  let calls = 0;
  fence.onChange(() => (calls += 1));
  nowMs = 150;
  fence.setLease(1n, 300);
  expect(calls).toBe(0);
});
