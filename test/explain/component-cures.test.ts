// What an operator is told to do about a component: a component that only follows from another has that one's cure.
import { describe, expect, it } from "vitest";
import { componentCure } from "../../src/explain/component-cures.ts";

describe("the cure of the lease", () => {
  it("is that of what keeps it from being taken or renewed", () => {
    const away = "the database cannot be reached: connect ECONNREFUSED 127.0.0.1:5432";
    for (const state of ["not taken", "not renewed in time"]) {
      expect(componentCure("lease", `${state}: ${away}`)).toBe(componentCure("database", away));
    }
    const older = `the schema is older than this agent: run "storage-node migrate"`;
    expect(componentCure("lease", `not taken: ${older}`)).toBe(componentCure("database", older));
    const damaged =
      "/var/lib/storage-node cannot be read: /var/lib/storage-node/node.json is damaged: x";
    expect(componentCure("lease", `not taken: ${damaged}`)).toBe(
      componentCure("state-dir", damaged),
    );
    const row = "row 1 of table lvol cannot be read: request.thin: Invalid input";
    expect(componentCure("lease", `not taken: ${row}`)).toBe(componentCure("writes", row));
  });

  it("is the other agent, if one has it", () => {
    expect(componentCure("lease", "the lease is held by vm/1/2")).toMatch(
      /^ask the agent that has/,
    );
  });
});

describe("the cure of", () => {
  it("a damaged memory is to remove it, not to make room", () => {
    const cure = componentCure("state-dir", "/s cannot be read: /s/node.json is damaged: x");
    expect(cure).toMatch(/^if the database is surely the newest one, remove that file/);
    expect(componentCure("state-dir", "/s cannot be written: ENOSPC")).toMatch(/^make room/);
  });

  it("writes on hold is the end of the hold", () => {
    expect(componentCure("writes", "not tried while the node is on hold")).toMatch(/^end the hold/);
  });

  it("a first attempt that is under way is to wait, and blames nobody", () => {
    expect(componentCure("database", "no connection yet")).toMatch(/^wait/);
  });
});
