// What a person reads of a request with bad fields, whose tool may show the details encoded only.
import { describe, expect, it } from "vitest";
import { invalidFields } from "../../src/model/errors.ts";

const bad = (count: number) =>
  Array.from({ length: count }, (_, at) => ({ field: `f${at}`, description: "must be set" }));

describe("the message about bad fields", () => {
  it("names each of a few, and counts the rest of many", () => {
    expect(invalidFields(bad(2)).message).toBe("f0: must be set; f1: must be set");
    const { message, details } = invalidFields(bad(7));
    expect(message).toContain("f4: must be set (and 2 more)");
    expect(message).not.toContain("f5");
    expect(details.fields).toHaveLength(7);
  });
});
