// The driver alone, with artificial objects: a failed step is always tried again, each step and part after a
// back-off of its own, and an object whose step was fatal is not changed.
import { pino } from "pino";
import { afterEach, describe, expect, it } from "vitest";
import { BACKOFF_FIRST_MS } from "../../../src/limits.ts";
import type { StepFailures } from "../../../src/model/failure.ts";
import { Driver } from "../../../src/reconcile/engine/driver.ts";
import { Suspects } from "../../../src/reconcile/engine/suspects.ts";
import type { Kind, StepResult } from "../../../src/reconcile/engine/kind.ts";
import { NO_INSTRUMENTS } from "../../../src/telemetry/instruments.ts";
import { until } from "../../support/agent.ts";

const OBJECTS = 1_000;
const FAILURES = 2;

type Step = { readonly kind: "observe" | "step" | "fix"; readonly part?: string };

type Parts = {
  readonly plan: (id: string) => Step | readonly Step[] | undefined;
  readonly perform: (id: string, step: Step) => StepResult | Promise<StepResult>;
  readonly recordedFailures?: StepFailures;
  readonly outlives?: (loop: string) => boolean;
  readonly wakeTime?: () => Date | undefined;
  readonly recordFatal?: () => void;
  readonly gaveUp?: () => boolean;
};

function kindOf(parts: Parts): Kind<string, Step> {
  return {
    name: "object",
    loops: [{ name: "one", plan: parts.plan }],
    view: (id) => id,
    permits: () => true,
    intent: () => ({ traceparent: undefined, open: true }),
    changes: (act) => act !== "observe",
    sends: (act) => (act === "observe" ? undefined : act),
    gaveUp: parts.gaveUp ?? (() => false),
    part: ({ part }) => part,
    recordedFailures: () => parts.recordedFailures ?? {},
    outlives: (_view, loop) => parts.outlives?.(loop) ?? false,
    wakeTime: parts.wakeTime ?? (() => undefined),
    perform: (id, step) => Promise.resolve(parts.perform(id, step)),
    record: () => undefined,
    recordFatal: () => {
      parts.recordFatal?.();
      return Promise.resolve(true);
    },
  };
}

const drivers: Driver<string, Step>[] = [];

/** A driver that has begun to plan the object "a". */
function started(parts: Parts): Driver<string, Step> {
  const log = pino({ level: "silent" });
  const driver = new Driver(kindOf(parts), log, NO_INSTRUMENTS, new Suspects(log));
  drivers.push(driver);
  driver.start();
  driver.wake("a");
  return driver;
}

afterEach(async () => {
  for (const driver of drivers.splice(0)) await driver.stop(AbortSignal.timeout(1_000));
});

const RETRY = { kind: "retry", message: "not yet" } as const;
const OK = { kind: "ok" } as const;

const attemptsOf = (driver: Driver<string, Step>) =>
  Object.fromEntries(
    Object.entries(driver.failures("a", {})).map(([key, { attempt }]) => [key, attempt]),
  );

it("plans each failed object again, even if Date.now() lags behind the back-off timer", async () => {
  const tries = new Map<string, number>();
  const triesOf = (id: string) => tries.get(id) ?? 0;
  const driver = started({
    plan: (id) => (triesOf(id) <= FAILURES ? { kind: "step" } : undefined),
    perform: (id) => {
      tries.set(id, triesOf(id) + 1);
      return triesOf(id) <= FAILURES ? RETRY : OK;
    },
  });
  const ids = Array.from({ length: OBJECTS }, (_, index) => `object-${index}`);
  // One per turn of the event loop, so that back-offs begin at all fractions of a millisecond.
  for (const id of ids) {
    driver.wake(id);
    await new Promise((resolve) => setImmediate(resolve));
  }
  const unfinished = () => ids.filter((id) => triesOf(id) <= FAILURES);
  await until("all have succeeded", () => unfinished().length === 0, 10_000).catch(() => undefined);
  expect(unfinished()).toEqual([]);
});

describe("the back-off of a step", () => {
  it("grows with its own failures, although another step succeeds in between", async () => {
    let failed = false;
    const timesMs: number[] = [];
    const driver = started({
      plan: () => ({ kind: failed ? "observe" : "step" }),
      perform: (_, { kind }) => {
        failed = kind === "step";
        if (kind === "step") timesMs.push(performance.now());
        return failed ? RETRY : OK;
      },
    });
    await until("it was tried three times", () => timesMs.length === 3);
    const waits = timesMs.slice(1).map((time, index) => time - (timesMs[index] ?? 0));
    // 75 % of 200 ms, then of 400 ms; a timer may fire a millisecond early.
    expect(waits[0]).toBeGreaterThan(0.75 * BACKOFF_FIRST_MS - 2);
    expect(waits[1]).toBeGreaterThan(0.75 * 2 * BACKOFF_FIRST_MS - 2);
    await until("its failure is counted", () => attemptsOf(driver)["one/step"] === 3);
    expect(attemptsOf(driver)).toEqual({ "one/step": 3 });
  });

  it("is over once the step succeeds", async () => {
    let tries = 0;
    const driver = started({
      plan: () => (tries < 2 ? { kind: "step" } : undefined),
      perform: () => ((tries += 1) < 2 ? RETRY : OK),
    });
    await until("it failed", () => driver.failures("a", {})["one/step"] !== undefined);
    await until("it succeeded", () => tries === 2 && driver.idle);
    expect(driver.failures("a", {})).toEqual({});
  });

  it("survives a restart of the agent", async () => {
    const nextTryTime = new Date(Date.now() + 200);
    const recorded = { "one/step": { attempt: 5, message: "before", nextTryTime } };
    let triedAt = 0;
    const driver = started({
      plan: () => ({ kind: "step" }),
      perform: () => {
        triedAt = Date.now();
        return RETRY;
      },
      recordedFailures: recorded,
    });
    // The row is seen for the first time: its intent is not new.
    driver.retryIfIntentChanged("a", 3n);
    await until("the failures are taken over", () => attemptsOf(driver)["one/step"] === 5);
    expect(driver.failures("a", {})).toEqual(recorded);
    await until("it is tried again", () => attemptsOf(driver)["one/step"] === 6);
    expect(triedAt).toBeGreaterThanOrEqual(nextTryTime.getTime() - 2);
    const next = driver.failures("a", {})["one/step"]?.nextTryTime.getTime() ?? 0;
    expect(next - triedAt).toBeGreaterThan(0.75 * BACKOFF_FIRST_MS * 2 ** 5 - 2);
  });

  it("ends when the target is back, without beginning anew", async () => {
    let tries = 0;
    const driver = started({
      plan: () => ({ kind: "step" }),
      perform: () => {
        tries += 1;
        return RETRY;
      },
    });
    // Waited for in full, that would take more than ten minutes.
    for (const attempt of Array.from({ length: 20 }, (_, index) => index + 1)) {
      await until(`attempt ${attempt}`, () => attemptsOf(driver)["one/step"] === attempt);
      expect(tries).toBe(attempt);
      if (attempt % 2 === 0) driver.retryAllNow();
      else driver.retrySoon("a");
    }
  });

  it("is forgotten with a new intent, and only then", async () => {
    let tries = 0;
    const message = "before";
    const nextTryTime = new Date(Date.now() + 3_600_000);
    const driver = started({
      plan: () => ({ kind: "step" }),
      perform: () => {
        tries += 1;
        return RETRY;
      },
      recordedFailures: { "one/step": { attempt: 9, message, nextTryTime } },
    });
    driver.retryIfIntentChanged("a", 1n);
    driver.retryIfIntentChanged("a", 1n);
    await until("it was planned", () => attemptsOf(driver)["one/step"] === 9 && driver.idle);
    expect(tries).toBe(0);
    driver.retryIfIntentChanged("a", 2n);
    await until("it is tried", () => tries > 0 && attemptsOf(driver)["one/step"] !== undefined);
    expect(attemptsOf(driver)["one/step"]).toBe(tries);
  });

  it("is forgotten if nothing wants the step any more and the object works", async () => {
    let works = false;
    let wanted: readonly Step[] = ["x", "y"].map((part) => ({ kind: "step", part }));
    const driver = started({
      plan: () => wanted,
      perform: () => RETRY,
      outlives: (loop) => works && loop === "one",
    });
    await until("both failed", () => Object.keys(driver.failures("a", {})).length === 2);
    wanted = [{ kind: "step", part: "y" }];
    driver.wake("a");
    await until("it was planned", () => driver.idle);
    expect(Object.keys(driver.failures("a", {}))).toEqual(["one/step x", "one/step y"]);
    works = true;
    driver.wake("a");
    await until("one is forgotten", () => Object.keys(driver.failures("a", {})).length === 1);
    expect(Object.keys(driver.failures("a", {}))).toEqual(["one/step y"]);
  });
});

/** Performs steps that end when they are told to. */
function manual() {
  const running = new Map<string, (result: StepResult) => void>();
  const begun: string[] = [];
  const nameOf = ({ kind, part }: Step) => (part === undefined ? kind : `${kind} ${part}`);
  return {
    begun,
    running: () => [...running.keys()],
    end: (name: string, result: StepResult = OK) => {
      const resolve = running.get(name);
      running.delete(name);
      resolve?.(result);
    },
    perform: (_: string, step: Step) => {
      const { promise, resolve } = Promise.withResolvers<StepResult>();
      running.set(nameOf(step), resolve);
      begun.push(nameOf(step));
      return promise;
    },
  };
}

describe("steps on parts of an object", () => {
  const parts = (...names: readonly string[]): readonly Step[] =>
    names.map((part) => ({ kind: "step", part }));

  it("run together, each once, and a step without a part runs alone", async () => {
    const steps = manual();
    let wanted: Step | readonly Step[] | undefined = parts("x", "y");
    const driver = started({ plan: () => wanted, perform: steps.perform });
    await until("both run", () => steps.running().length === 2);
    wanted = [...parts("x", "z"), { kind: "observe" }];
    driver.wake("a");
    await until("another part runs", () => steps.running().length === 3);
    expect(steps.running()).toEqual(["step x", "step y", "step z"]);
    wanted = { kind: "observe" };
    for (const name of ["step x", "step y"]) steps.end(name);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(steps.running()).toEqual(["step z"]);
    steps.end("step z");
    await until("it runs alone", () => steps.running().includes("observe"));
    wanted = parts("x");
    driver.wake("a");
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(steps.running()).toEqual(["observe"]);
    steps.end("observe");
    await until("parts run again", () => steps.running().includes("step x"));
    wanted = undefined;
    steps.end("step x");
    expect(steps.begun).toEqual(["step x", "step y", "step z", "observe", "step x"]);
  });

  it("have back-offs of their own: one that fails keeps no other away", async () => {
    const tries = { x: 0, y: 0 };
    const driver = started({
      plan: () => (tries.y < 5 ? parts("x", "y") : parts("x")),
      perform: (_, { part }) => {
        if (part === "x") tries.x += 1;
        else tries.y += 1;
        return part === "x" ? RETRY : OK;
      },
    });
    await until("the other has run five times", () => tries.y === 5);
    expect(tries.x).toBe(1);
    expect(attemptsOf(driver)).toEqual({ "one/step x": 1 });
  });

  it("are backed off under their own key if they fail within a step that succeeds", async () => {
    let made = false;
    const fixed: (string | undefined)[] = [];
    const message = "refused";
    const driver = started({
      plan: () => {
        if (!made) return { kind: "step" };
        return ["x", "y"]
          .filter((part) => !fixed.includes(part))
          .map((part) => ({ kind: "fix", part }));
      },
      perform: (_, { kind, part }) => {
        if (kind === "fix") {
          fixed.push(part);
          return OK;
        }
        made = true;
        return { kind: "ok", failedParts: [{ step: "fix", part: "x", message }] };
      },
    });
    await until("the other part is done", () => fixed.length === 1);
    expect(fixed).toEqual(["y"]);
    expect(driver.failures("a", {})).toMatchObject({ "one/fix x": { attempt: 1, message } });
    expect(Object.keys(driver.failures("a", {}))).toHaveLength(1);
    await until("it is tried again", () => fixed.length === 2);
    await until("nothing fails any more", () => driver.idle);
    expect(driver.failures("a", {})).toEqual({});
  });
});

describe("an object whose step ended as fatal", () => {
  it("is still observed, and not changed before a new intent", async () => {
    let failed = false;
    let plan: Step = { kind: "step" };
    const taken: string[] = [];
    const driver = started({
      plan: () => plan,
      gaveUp: () => failed,
      perform: (_id, step) => {
        taken.push(step.kind);
        return step.kind === "step" ? { kind: "fatal", message: "no" } : OK;
      },
      recordFatal: () => (failed = true),
    });
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

it("plans an object again at its wake time, though nothing wakes it", async () => {
  const due = new Date(Date.now() + 100);
  let doneAt = 0;
  started({
    plan: () => (Date.now() >= due.getTime() && doneAt === 0 ? { kind: "step" } : undefined),
    perform: () => {
      doneAt = Date.now();
      return OK;
    },
    wakeTime: () => (doneAt === 0 ? due : undefined),
  });
  await until("the step was taken", () => doneAt > 0, 5_000);
  expect(doneAt).toBeGreaterThanOrEqual(due.getTime());
});
