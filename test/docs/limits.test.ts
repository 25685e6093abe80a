// docs/limits.md against src/limits.ts: the same names with the same values.
import { readFile } from "node:fs/promises";
import { expect, it } from "vitest";
import * as limits from "../../src/limits.ts";

it("docs/limits.md names every limit with its value, and no other", async () => {
  const text = await readFile(new URL("../../docs/limits.md", import.meta.url), "utf8");
  const rows = text.matchAll(/^\| `([A-Z_]+)` *\| (\d+) /gm);
  const documented = Object.fromEntries([...rows].map(([, name, value]) => [name, Number(value)]));
  const values = Object.entries(limits).filter(([, value]) => typeof value === "number");
  expect(documented).toEqual(Object.fromEntries(values));
});
