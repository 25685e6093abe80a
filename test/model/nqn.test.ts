import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { isNqn } from "../../src/model/nqn.ts";
import { isNqn as isNqnOfTarget } from "../../src/sim/target/nvmf-names.ts";

const UUID_PREFIX = "nqn.2014-08.org.nvmexpress:uuid:";

/** Names near the rules' limits: correct ones, and ones with a single fault. */
const label = fc.oneof(
  fc.stringMatching(/^[A-Za-z0-9-]{0,4}$/),
  fc.integer({ min: 60, max: 66 }).map((length) => "a".repeat(length)),
  fc.constantFrom("a_b", "é", "a\0", "-a", "a-", "1a"),
);
const dated = fc
  .record({
    prefix: fc.constantFrom("nqn.", "NQN.", "iqn.", " nqn.", "nqn"),
    date: fc.oneof(
      fc.stringMatching(/^\d{4}-\d{2}$/),
      fc.constantFrom("2014-8", "201-08", "٢٠١٤-٠٨"),
    ),
    labels: fc.array(label, { maxLength: 4 }),
    separator: fc.constantFrom(":", "", "::", ".:", "\n:"),
    rest: fc.string({ unit: "grapheme", maxLength: 240 }),
  })
  .map(({ prefix, date, labels, separator, rest }) =>
    [prefix, date, ".", labels.join("."), separator, rest].join(""),
  );
const named = fc
  .oneof(
    fc.uuid(),
    fc.uuid().map((uuid) => uuid.toUpperCase()),
    fc.string(),
    fc.constant(""),
  )
  .chain((uuid) => fc.constantFrom(uuid, `${uuid}0`, `{${uuid}}`, uuid.replaceAll("-", "")))
  .map((uuid) => UUID_PREFIX + uuid);

describe("the rule for NVMe qualified names", () => {
  it("agrees with the target on every name, correct or not", () => {
    const seen = { accepted: 0, refused: 0 };
    fc.assert(
      fc.property(fc.oneof(dated, named, fc.string({ unit: "grapheme" })), (name) => {
        const accepted = isNqn(name);
        seen[accepted ? "accepted" : "refused"] += 1;
        expect(accepted).toBe(isNqnOfTarget(name));
      }),
      { numRuns: 5_000 },
    );
    expect(Math.min(seen.accepted, seen.refused)).toBeGreaterThan(100);
  });

  it.each([
    ["nqn.2014-08.org.nvmexpress:uuid:7c5d1e9a-0001-4000-8000-000000000001", true],
    ["nqn.2014-08.org.nvmexpress:uuid:7C5D1E9A-0001-4000-8000-000000000001", true],
    ["nqn.2014-08.org.nvmexpress:uuid:1", false],
    ["nqn.2026-99.io.Example:a host_1 é", true],
    ["nqn.2026-11.io.example", false],
    ["nqn.2026-11.io.example:", false],
    ["nqn.2026-11.io.1example:host", false],
    ["nqn.2026-11.io.example-:host", false],
    ["nqn.2026-11.io..example:host", false],
    [`nqn.2026-11.io.${"a".repeat(63)}:host`, true],
    [`nqn.2026-11.io.${"a".repeat(64)}:host`, false],
    [`nqn.2026-11.io:${"h".repeat(223 - 15)}`, true],
    [`nqn.2026-11.io:${"h".repeat(223 - 14)}`, false],
    [`nqn.2026-11.io:${"é".repeat((223 - 13) / 2)}`, false],
    ["NQN.2026-11.io.example:host", false],
    ["nqn.2026-11.io.example:\ud800", false],
  ])("%j: %s", (name, valid) => {
    expect(isNqn(name)).toBe(valid);
  });
});
