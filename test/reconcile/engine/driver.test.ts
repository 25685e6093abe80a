// The driver on its own, over made-up objects: it never forgets one, and never changes one that gave up.
import { pino } from "pino";
import { describe, expect, it } from "vitest";
import {
  Driver,
  type Failure,
  type Kind,
  type StepResult,
} from "../../../src/reconcile/engine/driver.ts";
import { NO_INSTRUMENTS } from "../../../src/telemetry/instruments.ts";
import { until } from "../../support/agent.ts";

const OBJECTS = 1_000;
const FAILURES = 2;

type Step = { readonly kind: "observe" | "step" };

function kindOf(parts: {
  readonly plan: (id: string) => Step | undefined;
  readonly perform: (id: string, step: Step) => StepResult;
  readonly recordFailure?: (id: string, failure: Failure) => void;
  readonly gaveUp?: (id: string) => boolean;
}): Kind<string, Step> {
  return {
    name: "object",
    loops: [{ name: "one", plan: parts.plan }],
    view: (id) => id,
    permits: () => true,
    intent: () => ({ traceparent: undefined, open: true }),
    changes: (act) => act === "step",
    gaveUp: parts.gaveUp ?? (() => false),
    perform: (id, step) => Promise.resolve(parts.perform(id, step)),
    record: () => undefined,
    recordFailure: (id, failure) => {
      parts.recordFailure?.(id, failure);
      return Promise.resolve(true);
    },
  };
}

it("tries each object again that failed, whatever the clock says when its back-off ends", async () => {
  const tries = new Map<string, number>();
  const triesOf = (id: string) => tries.get(id) ?? 0;
  const kind = kindOf({
    plan: (id) => (triesOf(id) <= FAILURES ? { kind: "step" } : undefined),
    perform: (id) => {
      tries.set(id, triesOf(id) + 1);
      return triesOf(id) <= FAILURES ? { kind: "retry", message: "not yet" } : { kind: "ok" };
    },
  });
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

describe("an object whose step ended as fatal", () => {
  it("is still observed, and not changed before a new intent", async () => {
    let failed = false;
    let plan: Step = { kind: "step" };
    const taken: string[] = [];
    const kind = kindOf({
      plan: () => plan,
      gaveUp: () => failed,
      perform: (_id, step) => {
        taken.push(step.kind);
        return step.kind === "step" ? { kind: "fatal", message: "no" } : { kind: "ok" };
      },
      recordFailure: (_id, { fatal }) => (failed = fatal),
    });
    const driver = new Driver(kind, pino({ level: "silent" }), NO_INSTRUMENTS);
    driver.start();
    driver.wake("a");
    await until("the step has failed", () => failed);
    driver.retryNow("a");
    await until("it is planned again", () => driver.idle);
    expect(taken).toEqual(["step"]);
    plan = { kind: "observe" };
    driver.wake("a");
    await until("it is observed", () => taken.length > 1);
    await driver.stop(AbortSignal.timeout(1_000));
    expect(taken.slice(0, 2)).toEqual(["step", "observe"]);
  });
});
