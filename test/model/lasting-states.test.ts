import { expect, it } from "vitest";
import { LastingStates } from "../../src/model/lasting-states.ts";

const change = (before: string, after: string, sinceMs: number) => ({
  id: "a",
  before,
  after,
  sinceMs,
});

function begun(): LastingStates {
  const states = new LastingStates();
  states.begin("a", () => "UP");
  return states;
}

it("tells of a state once it has lasted, and only once", () => {
  const states = begun();
  states.observe("a", "DEGRADED", 100);
  expect(states.lasting({ beforeMs: 99 })).toEqual([]);
  // Observed again: it began when it was first seen.
  states.observe("a", "DEGRADED", 5_000);
  expect(states.lasting({ beforeMs: 100 })).toEqual([change("UP", "DEGRADED", 100)]);
  expect(states.lasting({ beforeMs: 9_999 })).toEqual([]);
  states.observe("a", "UP", 6_000);
  expect(states.lasting({ beforeMs: 6_000 })).toEqual([change("DEGRADED", "UP", 6_000)]);
});

it("tells nothing of a state that was left again", () => {
  const states = begun();
  states.observe("a", "DEGRADED", 100);
  states.observe("a", "UP", 200);
  expect(states.lasting({ beforeMs: 9_999 })).toEqual([]);
});

it("tells of the last of several states, from the one that lasted before", () => {
  const states = begun();
  states.observe("a", "DEGRADED", 100);
  states.observe("a", "DATA_MISSING", 200);
  expect(states.lasting({ beforeMs: 150 })).toEqual([]);
  expect(states.lasting({ beforeMs: 200 })).toEqual([change("UP", "DATA_MISSING", 200)]);
});

it("takes what it sees first of an unknown object for what was there", () => {
  const states = new LastingStates();
  states.observe("a", "FAILED", 100);
  expect(states.lasting({ beforeMs: 9_999 })).toEqual([]);
  states.begin("a", () => "UP");
  states.observe("a", "UP", 200);
  expect(states.lasting({ beforeMs: 200 })).toEqual([change("FAILED", "UP", 200)]);
  states.observe("a", "FAILED", 300);
  states.forget("a");
  expect(states.lasting({ beforeMs: 9_999 })).toEqual([]);
});
