import { expect, it } from "vitest";
import { Fence } from "../../src/store/fence.ts";

it("a lease that was found ended is announced when it is renewed", () => {
  let nowMs = 0;
  const fence = new Fence(() => nowMs);
  fence.setLock(true);
  fence.setLease(1n, 100);
  const told: string[] = [];
  fence.onChange(() => told.push(fence.writeMode));
  nowMs = 150;
  // Somebody wants to change something and may not.
  expect(fence.writeMode).toBe("read-only");
  fence.setLease(1n, 300);
  expect(told).toEqual(["read-write"]);
});

it("a lease that nobody found ended is renewed without a word", () => {
  let nowMs = 0;
  const fence = new Fence(() => nowMs);
  fence.setLock(true);
  fence.setLease(1n, 100);
  let told = 0;
  fence.onChange(() => (told += 1));
  nowMs = 150;
  fence.setLease(1n, 300);
  expect(told).toBe(0);
});
