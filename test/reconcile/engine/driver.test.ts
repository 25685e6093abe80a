// The driver on its own, over objects that are made up: what it must never do is to forget one.
import { pino } from "pino";
import { expect, it } from "vitest";
import { Driver, type StepResult } from "../../../src/reconcile/engine/driver.ts";
import { NO_INSTRUMENTS } from "../../../src/telemetry/instruments.ts";
import { until } from "../../support/agent.ts";

const OBJECTS = 1_000;
const FAILURES = 2;

it("tries each object again that failed, whatever the clock says when its back-off ends", async () => {
  const tries = new Map<string, number>();
  const triesOf = (id: string) => tries.get(id) ?? 0;
  const kind = {
    name: "lvol" as const,
    loops: [
      {
        name: "one",
        plan: (id: string) => (triesOf(id) <= FAILURES ? { kind: "step" } : undefined),
      },
    ],
    view: (id: string) => id,
    may: () => true,
    intent: () => ({ traceparent: undefined, open: true }),
    changes: () => true,
    perform: (id: string): Promise<StepResult> => {
      tries.set(id, triesOf(id) + 1);
      const retry = { kind: "retry", message: "not yet" } as const;
      return Promise.resolve(triesOf(id) <= FAILURES ? retry : { kind: "ok" });
    },
    record: () => undefined,
    recordFailure: () => Promise.resolve(true),
  };
  const driver = new Driver(kind, pino({ level: "silent" }), NO_INSTRUMENTS);
  const ids = Array.from({ length: OBJECTS }, (_, index) => `object-${index}`);
  driver.start();
  // One after the other, so that they begin at all fractions of a millisecond.
  for (const id of ids) {
    driver.wake(id);
    await new Promise((resolve) => setImmediate(resolve));
  }
  const left = () => ids.filter((id) => triesOf(id) <= FAILURES);
  await until("all have succeeded", () => left().length === 0, 10_000).catch(() => undefined);
  await driver.stop(AbortSignal.timeout(1_000));
  expect(left()).toEqual([]);
});
