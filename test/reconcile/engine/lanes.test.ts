import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Lanes, type LaneKey } from "../../../src/reconcile/engine/lanes.ts";

const disk = (name: string, mode: "exclusive" | "shared"): LaneKey => ({
  kind: "disk",
  disk: name,
  mode,
});
const family = (on: string, root: string): LaneKey => ({ kind: "family", disk: on, root });
const nqn = (name: string): LaneKey => ({ kind: "nqn", nqn: name });

/** Acts that run until `end` is called, and a record of which have begun. */
function stage(lanes: Lanes) {
  const running = new Map<string, PromiseWithResolvers<void>>();
  const begun: string[] = [];
  return {
    begun,
    running: () => [...running.keys()],
    start(name: string, keys: readonly LaneKey[], signal?: AbortSignal): Promise<void> {
      const act = async (): Promise<void> => {
        const end = Promise.withResolvers<void>();
        running.set(name, end);
        begun.push(name);
        await end.promise;
      };
      return lanes.run(keys, act, signal === undefined ? {} : { signal });
    },
    async end(name: string): Promise<void> {
      running.get(name)?.resolve();
      running.delete(name);
      await settle();
    },
  };
}

/** Runs all pending microtasks and immediates. */
async function settle(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

describe("acts", () => {
  test("begin in the same tick if their keys are free", () => {
    const acts = stage(new Lanes());
    void acts.start("a", [family("d", "f")]);
    expect(acts.running()).toEqual(["a"]);
  });

  test("of unrelated families run at the same time, those of one family one after another", async () => {
    const acts = stage(new Lanes());
    void acts.start("a1", [family("d", "a")]);
    void acts.start("a2", [family("d", "a")]);
    void acts.start("b1", [family("d", "b")]);
    expect(acts.running()).toEqual(["a1", "b1"]);
    await acts.end("a1");
    expect(acts.running()).toEqual(["b1", "a2"]);
  });

  test("an exclusive act on a disk waits for its families and blocks new ones", async () => {
    const acts = stage(new Lanes());
    void acts.start("volume", [family("d", "a")]);
    void acts.start("detach", [disk("d", "exclusive")]);
    void acts.start("next volume", [family("d", "b")]);
    void acts.start("elsewhere", [family("e", "b")]);
    expect(acts.running()).toEqual(["volume", "elsewhere"]);
    await acts.end("volume");
    expect(acts.running()).toEqual(["elsewhere", "detach"]);
    await acts.end("detach");
    expect(acts.running()).toEqual(["elsewhere", "next volume"]);
  });

  test("an act that names one key twice does not wait for itself", async () => {
    const lanes = new Lanes();
    const keys = [family("d", "a"), family("d", "a"), disk("d", "exclusive"), disk("d", "shared")];
    expect(await lanes.run(keys, async () => await Promise.resolve("done"))).toBe("done");
    expect(lanes.busy(disk("d", "exclusive"))).toBe(false);
  });

  test("a failing act opens its lane and rejects its caller", async () => {
    const lanes = new Lanes();
    const failure = lanes.run([nqn("n")], async () => await Promise.reject(new Error("no")));
    await expect(failure).rejects.toThrow("no");
    expect(lanes.busy(nqn("n"))).toBe(false);
    expect(lanes.counts).toEqual({ waiting: 0, running: 0 });
  });

  test("an act may start another act", async () => {
    const lanes = new Lanes();
    const order: string[] = [];
    const inner = lanes.run([nqn("a")], async () => {
      order.push("outer");
      await lanes.run([nqn("b")], async () => {
        await settle();
        order.push("inner");
      });
    });
    await inner;
    expect(order).toEqual(["outer", "inner"]);
  });
});

describe("a lane opens when the answer has arrived", () => {
  test("not when the act stopped waiting for it", async () => {
    const lanes = new Lanes();
    const answer = Promise.withResolvers<void>();
    const result = await lanes.run([family("d", "f")], async (lane) => {
      lane.keepClosedUntil(answer.promise);
      return await Promise.resolve("timed out");
    });
    expect(result).toBe("timed out");
    const acts = stage(lanes);
    void acts.start("next", [family("d", "f")]);
    await settle();
    expect(acts.running()).toEqual([]);
    expect(lanes.busy(family("d", "f"))).toBe(true);
    expect(lanes.busy(disk("d", "exclusive"))).toBe(true);
    answer.resolve();
    await settle();
    expect(acts.running()).toEqual(["next"]);
  });

  test("each of several answers keeps it closed, failed ones too", async () => {
    const lanes = new Lanes();
    const answers = [Promise.withResolvers<void>(), Promise.withResolvers<void>()] as const;
    await lanes.run([nqn("n")], async (lane) => {
      for (const { promise } of answers) lane.keepClosedUntil(promise);
      await Promise.resolve();
    });
    answers[0].reject(new Error("late failure"));
    await settle();
    expect(lanes.busy(nqn("n"))).toBe(true);
    answers[1].resolve();
    await settle();
    expect(lanes.busy(nqn("n"))).toBe(false);
  });

  test("an open lane cannot be kept closed", async () => {
    const lanes = new Lanes();
    const lane = await lanes.run([nqn("n")], async (lane) => await Promise.resolve(lane));
    await settle();
    expect(() => lane.keepClosedUntil(Promise.resolve())).toThrow("already released");
  });
});

describe("a closed lane", () => {
  test("admits no waiting and no new act, and reports the reason", async () => {
    const lanes = new Lanes();
    const acts = stage(lanes);
    void acts.start("first", [family("d", "f")]);
    void acts.start("waiting", [family("d", "f")]);
    const open = lanes.close(family("d", "f"), "delete of another run");
    await acts.end("first");
    expect(acts.running()).toEqual([]);
    expect(lanes.closedBy(family("d", "f"))).toEqual(["delete of another run"]);
    expect(lanes.closedBy(family("d", "g"))).toEqual([]);
    open();
    open();
    expect(acts.running()).toEqual(["waiting"]);
    expect(lanes.closedBy(family("d", "f"))).toEqual([]);
  });

  test("of a family closes the disk to exclusive holders only", async () => {
    const lanes = new Lanes();
    const acts = stage(lanes);
    const open = lanes.close(family("d", "f"), "r");
    expect(lanes.closedBy(disk("d", "exclusive"))).toEqual(["r"]);
    void acts.start("other family", [family("d", "g")]);
    void acts.start("detach", [disk("d", "exclusive")]);
    expect(acts.running()).toEqual(["other family"]);
    await acts.end("other family");
    expect(acts.running()).toEqual([]);
    open();
    expect(acts.running()).toEqual(["detach"]);
  });

  test("stays closed until the last of several closures ends", () => {
    const lanes = new Lanes();
    const acts = stage(lanes);
    const opens = ["one", "two"].map((reason) => lanes.close(nqn("n"), reason));
    void acts.start("act", [nqn("n")]);
    opens[0]?.();
    expect(acts.running()).toEqual([]);
    expect(lanes.closedBy(nqn("n"))).toEqual(["two"]);
    opens[1]?.();
    expect(acts.running()).toEqual(["act"]);
  });
});

describe("aborting a wait", () => {
  test("rejects with the reason and lets the acts behind it begin", async () => {
    const lanes = new Lanes();
    const acts = stage(lanes);
    const abort = new AbortController();
    void acts.start("family", [family("d", "f")]);
    const detach = acts.start("detach", [disk("d", "exclusive")], abort.signal);
    void acts.start("other", [family("d", "g")]);
    expect(acts.running()).toEqual(["family"]);
    abort.abort(new Error("shutdown"));
    await expect(detach).rejects.toThrow("shutdown");
    expect(acts.running()).toEqual(["family", "other"]);
    await expect(acts.start("late", [nqn("n")], abort.signal)).rejects.toThrow("shutdown");
    expect(lanes.counts).toEqual({ waiting: 0, running: 2 });
  });

  test("of an act that waits for a closure frees its other keys", async () => {
    const lanes = new Lanes();
    const acts = stage(lanes);
    const abort = new AbortController();
    const open = lanes.close(family("d", "f"), "r");
    const parked = acts.start("parked", [family("d", "f"), nqn("n")], abort.signal);
    void acts.start("behind", [nqn("n")]);
    expect(acts.running()).toEqual([]);
    abort.abort(new Error("no longer wanted"));
    await expect(parked).rejects.toThrow("no longer wanted");
    expect(acts.running()).toEqual(["behind"]);
    open();
    expect(lanes.busy(family("d", "f"))).toBe(false);
  });

  test("does not touch an act that has begun", async () => {
    const lanes = new Lanes();
    const acts = stage(lanes);
    const abort = new AbortController();
    const act = acts.start("act", [nqn("n")], abort.signal);
    abort.abort();
    expect(lanes.busy(nqn("n"))).toBe(true);
    await acts.end("act");
    await expect(act).resolves.toBeUndefined();
  });

  test("of 50,000 acts among 50,000 that run leaves no act waiting or running", async () => {
    const lanes = new Lanes();
    const abort = new AbortController();
    const first = Promise.withResolvers<void>();
    void lanes.run([nqn("n")], async () => await first.promise);
    const ended = Array.from({ length: 100_000 }, async (_, n) => {
      const options = n % 2 === 0 ? {} : { signal: abort.signal };
      return await lanes
        .run([nqn("n")], async () => await Promise.resolve(n), options)
        .catch(() => "aborted");
    });
    abort.abort();
    first.resolve();
    const results = await Promise.all(ended);
    expect(results.every((result, n) => result === (n % 2 === 0 ? n : "aborted"))).toBe(true);
    await settle();
    expect(lanes.counts).toEqual({ waiting: 0, running: 0 });
  });
});

type Act = {
  readonly keys: readonly LaneKey[];
  readonly end: () => void;
  readonly abort: () => void;
  state: "waiting" | "running" | "gone";
};

/** A naive second implementation of the rule: whether two acts may run at the same time. */
function compatible(one: readonly LaneKey[], other: readonly LaneKey[]): boolean {
  return one.every((a) => other.every((b) => compatibleKeys(a, b)));
}

function compatibleKeys(a: LaneKey, b: LaneKey): boolean {
  if (a.kind === "nqn" && b.kind === "nqn") return a.nqn !== b.nqn;
  if (a.kind === "controller" && b.kind === "controller") return a.address !== b.address;
  if (a.kind === "nqn" || b.kind === "nqn") return true;
  if (a.kind === "controller" || b.kind === "controller" || a.disk !== b.disk) return true;
  if (a.kind === "family" && b.kind === "family") return a.root !== b.root;
  return [a, b].every((key) => key.kind === "family" || key.mode === "shared");
}

const everyKey: readonly LaneKey[] = ["1", "2"].flatMap((name) => [
  disk(name, "exclusive"),
  disk(name, "shared"),
  nqn(name),
  { kind: "controller", address: name },
  family(name, "1"),
  family(name, "2"),
]);

function pick<T>(from: readonly T[], at: number): T | undefined {
  return from[at % from.length];
}

describe("a random sequence of acts, aborts and closures", () => {
  const key = fc.constantFrom(...everyKey);
  const keys = fc.array(key, { minLength: 1, maxLength: 3 });
  const event = fc.oneof(
    { weight: 5, arbitrary: fc.record({ kind: fc.constant("start" as const), keys }) },
    { weight: 5, arbitrary: fc.record({ kind: fc.constant("end" as const), at: fc.nat() }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("abort" as const), at: fc.nat() }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("close" as const), key }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("open" as const), at: fc.nat() }) },
  );

  test("never runs two conflicting acts, lets each wait for earlier ones only, and runs all", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(event, { maxLength: 60 }), async (events) => {
        const lanes = new Lanes();
        const acts: Act[] = [];
        const faults: unknown[] = [];
        const closures: { readonly key: LaneKey; readonly open: () => void }[] = [];
        const start = (keys: readonly LaneKey[]): void => {
          const end = Promise.withResolvers<void>();
          const abort = new AbortController();
          const act: Act = {
            keys,
            state: "waiting",
            end: () => {
              act.state = "gone";
              end.resolve();
            },
            abort: () => {
              act.state = "gone";
              abort.abort();
            },
          };
          acts.push(act);
          const run = async (): Promise<void> => {
            expect(act.state).toBe("waiting");
            act.state = "running";
            expect(closures.every(({ key }) => compatible([key], act.keys))).toBe(true);
            await end.promise;
          };
          lanes.run(keys, run, { signal: abort.signal }).catch((error: unknown) => {
            if (!abort.signal.aborted) faults.push(error);
          });
        };
        const check = (): void => {
          for (const [n, act] of acts.entries()) {
            if (act.state === "gone") continue;
            const earlier = acts.slice(0, n).filter(({ state }) => state !== "gone");
            const blocked =
              earlier.some(({ keys }) => !compatible(keys, act.keys)) ||
              closures.some(({ key }) => !compatible([key], act.keys));
            const clear = earlier.every(({ keys }) => compatible(keys, act.keys));
            expect(act.state === "waiting" ? blocked : clear).toBe(true);
          }
          const running = acts.filter(({ state }) => state === "running").length;
          const waiting = acts.filter(({ state }) => state === "waiting").length;
          expect(lanes.counts).toEqual({ running, waiting });
          const held = acts.filter(({ state }) => state !== "gone").map(({ keys }) => keys);
          const closed = closures.map(({ key }) => [key]);
          for (const key of everyKey) {
            const free = [...held, ...closed].every((keys) => compatible(keys, [key]));
            expect(lanes.busy(key)).toBe(!free);
          }
        };
        const inState = (state: Act["state"]) => acts.filter((act) => act.state === state);
        const openOne = (closure: (typeof closures)[number] | undefined): void => {
          if (closure === undefined) return;
          closures.splice(closures.indexOf(closure), 1);
          closure.open();
        };

        for (const event of events) {
          if (event.kind === "start") start(event.keys);
          else if (event.kind === "end") pick(inState("running"), event.at)?.end();
          else if (event.kind === "abort") pick(inState("waiting"), event.at)?.abort();
          else if (event.kind === "close") {
            closures.push({ key: event.key, open: lanes.close(event.key, "test") });
          } else openOne(pick(closures, event.at));
          await settle();
          check();
        }
        while (closures.length > 0) openOne(closures[0]);
        while (inState("running").length > 0) {
          for (const act of inState("running")) act.end();
          await settle();
          check();
        }
        expect(inState("waiting")).toEqual([]);
        expect(faults).toEqual([]);
      }),
      { numRuns: 300 },
    );
  });
});
