// What is left of a wait that was answered: nothing, however much of its wait_timeout is left.
import { AsyncLocalStorage } from "node:async_hooks";
import { expect, it } from "vitest";
import { waitFor } from "../../src/api/wait.ts";
import { MAX_WAIT_MS } from "../../src/limits.ts";
import { Rows } from "../../src/store/rows.ts";
import { collectGarbage } from "../support/collect-garbage.ts";
import { lvolRow, VOLUME } from "../support/model.ts";

/** Waits as a call does, in a context of its own, until the row changes. */
async function answered(): Promise<WeakRef<object>> {
  const call = { of: "one call" };
  const { signal } = new AbortController();
  const rows = new Rows();
  rows.apply({ lvols: [lvolRow()] });
  await new AsyncLocalStorage<object>().run(call, async () => {
    const wait = { id: VOLUME, waitMs: MAX_WAIT_MS, signal };
    const waiting = waitFor({ rows }, wait, ({ observedGeneration }) => observedGeneration === 7n);
    rows.apply({ lvols: [lvolRow({ observedGeneration: 7n })] });
    expect(await waiting).toMatchObject({ observedGeneration: 7n });
  });
  return new WeakRef(call);
}

it("a wait that is answered keeps nothing of its call until its wait_timeout is over", async () => {
  const call = await answered();
  await collectGarbage();
  expect(call.deref()).toBeUndefined();
});
