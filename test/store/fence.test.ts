import { describe, expect, it } from "vitest";
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

describe("a fence whose database is away", () => {
  function led() {
    let nowMs = 0;
    const fence = new Fence(() => nowMs);
    fence.setLock(true);
    fence.setLease(1n, 100);
    return { fence, at: (ms: number) => (nowMs = ms) };
  }

  it("permits restoring at once, although the lease has not ended, and says so", () => {
    const { fence, at } = led();
    const reported: string[] = [];
    fence.onChange(() => reported.push(fence.writeMode));
    at(10);
    fence.setDatabaseAway(160);
    expect(fence.writeMode).toBe("restore-only");
    fence.setLease(1n, 120);
    expect(fence.writeMode).toBe("read-write");
    expect(reported).toEqual(["restore-only", "read-write"]);
  });

  it("permits every change again once the database answers and the lease still holds", () => {
    const { fence, at } = led();
    fence.setDatabaseAway(160);
    at(50);
    fence.setDatabaseReached();
    expect(fence.writeMode).toBe("read-write");
  });

  it("permits nothing once the lease and the last failed attempt are both over", () => {
    const { fence, at } = led();
    fence.setDatabaseAway(160);
    at(150);
    expect(fence.writeMode).toBe("restore-only");
    at(161);
    expect(fence.writeMode).toBe("read-only");
  });

  it("permits nothing on hold, without the lock, or after the lease was lost", () => {
    const { fence } = led();
    fence.setDatabaseAway(160);
    fence.setHold("older database");
    expect(fence.writeMode).toBe("read-only");
    fence.setHold(undefined);
    fence.setLock(false);
    expect(fence.writeMode).toBe("read-only");
    fence.setLock(true);
    expect(fence.writeMode).toBe("restore-only");
    fence.loseLease();
    expect(fence.writeMode).toBe("read-only");
  });

  it("permits restoring without a lease while the rows come from the local copy", () => {
    const fence = new Fence(() => 0);
    fence.setCopied(true);
    fence.setDatabaseAway(100);
    expect(fence.writeMode).toBe("read-only");
    fence.setLock(true);
    expect(fence.writeMode).toBe("restore-only");
    fence.setDatabaseReached();
    expect(fence.writeMode).toBe("read-only");
    fence.setDatabaseAway(100);
    fence.setCopied(false);
    expect(fence.writeMode).toBe("read-only");
  });
});
