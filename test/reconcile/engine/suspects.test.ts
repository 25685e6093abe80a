// Suspects alone, with artificial steps of two drivers: who is blamed, who goes first, and who is cleared.
import { pino } from "pino";
import { expect, it } from "vitest";
import { Backoffs } from "../../../src/reconcile/engine/backoff.ts";
import { Suspects, type Sent, type Steps } from "../../../src/reconcile/engine/suspects.ts";

/** What a driver would do, with objects that each want one step, "a", until it is answered. */
class World {
  readonly suspects = new Suspects(pino({ level: "silent" }));
  readonly #steps: Record<"lvol" | "disk", Steps> = {
    lvol: this.#join("lvol"),
    disk: this.#join("disk"),
  };
  readonly #wanted = new Map<string, Sent>();
  readonly #inFlight = new Map<string, Sent>();
  readonly done: string[] = [];
  deaths = 0;

  #join(name: string): Steps {
    const steps = { name, backoffs: new Backoffs(() => {}), idle: () => true, wake: () => {} };
    this.suspects.join(steps);
    return steps;
  }

  want(over: "lvol" | "disk", id: string): void {
    this.#wanted.set(id, { steps: this.#steps[over], id, key: "a", sends: "change" });
  }

  /** Every wanted step that may go is sent. */
  plan(): readonly string[] {
    for (const [id, sent] of this.#wanted) {
      this.suspects.planning(id);
      if (sent.steps.backoffs.waits(id, "a") && this.countOf(id) > 0 && this.alone(id)) continue;
      if (this.#inFlight.has(id) || !this.suspects.mayGo(sent)) continue;
      this.suspects.began(sent);
      this.#inFlight.set(id, sent);
    }
    if (this.#inFlight.size === 0) {
      this.suspects.passed();
    }
    return [...this.#inFlight.keys()];
  }

  answerAll(): void {
    for (const [id, sent] of this.#inFlight) {
      this.suspects.ended(sent, undefined);
      sent.steps.backoffs.succeed(id, "a");
      this.#wanted.delete(id);
      this.done.push(id);
    }
    this.#inFlight.clear();
  }

  lose(restarted: boolean): void {
    this.suspects.disconnected();
    for (const sent of this.#inFlight.values()) this.suspects.ended(sent, "lost");
    this.#inFlight.clear();
    if (restarted) this.deaths += 1;
    this.suspects.identified({ restarted });
  }

  countOf(id: string): number {
    return this.#wanted.get(id)?.steps.backoffs.attempts(id, "a") ?? 0;
  }

  alone(id: string): boolean {
    return this.suspects.list().some((one) => one.id === id && one.state === "convicted");
  }

  /** Until only `bad` is left, which kills the target whenever it is sent. */
  run(bad: string): void {
    for (let turn = 0; turn < 1_000 && this.#wanted.size > 1; turn += 1) {
      const sent = this.plan();
      if (sent.includes(bad)) this.lose(true);
      else this.answerAll();
    }
  }
}

it.each([1, 2, 3, 5, 8, 50, 200])(
  "one of %d is found with at most log2 crashes after the first, wherever it is",
  (count) => {
    for (let bad = 0; bad < count; bad += Math.max(1, Math.floor(count / 7))) {
      const world = new World();
      for (let index = 0; index < count; index += 1) {
        world.want(index % 3 === 0 ? "disk" : "lvol", `object-${index}`);
      }
      world.run(`object-${bad}`);
      expect(world.done).toHaveLength(count - 1);
      expect(world.deaths).toBeLessThanOrEqual(Math.ceil(Math.log2(count)) + 2);
    }
  },
);

it("blames nobody when the connection was lost to a target that lives on", () => {
  const world = new World();
  world.want("lvol", "a");
  world.want("lvol", "b");
  expect(world.plan()).toEqual(["a", "b"]);
  world.lose(false);
  expect(world.suspects.list()).toEqual([]);
  expect(world.plan()).toEqual(["a", "b"]);
});

it("blames nobody when nothing was in flight", () => {
  const world = new World();
  world.lose(true);
  expect(world.suspects.list()).toEqual([]);
});

it("lets what is not suspected go first, and then half of the suspects", () => {
  const world = new World();
  for (const id of ["a", "b", "c", "d"]) world.want("lvol", id);
  world.plan();
  world.lose(true);
  world.want("lvol", "e");
  expect(world.plan()).toEqual(["e"]);
  world.answerAll();
  expect(world.plan()).toEqual([]);
  expect(world.plan()).toEqual(["a", "b"]);
  expect(world.suspects.list().map(({ state }) => state)).toEqual([
    "tried",
    "tried",
    "waiting",
    "waiting",
  ]);
});

it("blames the suspects that were tried, not what was in flight beside them", () => {
  const world = new World();
  world.want("lvol", "a");
  world.want("lvol", "b");
  world.plan();
  world.lose(true);
  world.plan();
  world.want("lvol", "new");
  expect(world.plan()).toEqual(["a", "new"]);
  world.lose(true);
  expect(world.suspects.list()).toMatchObject([{ id: "a", state: "convicted" }]);
  expect(world.countOf("a")).toBe(2);
});

it("does not blame again a change whose answer was lost before and came since", () => {
  const world = new World();
  world.want("lvol", "a");
  world.plan();
  world.answerAll();
  world.lose(true);
  expect(world.suspects.list()).toEqual([]);
});
