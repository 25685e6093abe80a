import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { CODE_OF_REASON } from "../../src/model/errors.ts";

it("docs/errors.md names every reason with its code, and no other", async () => {
  const path = fileURLToPath(new URL("../../docs/errors.md", import.meta.url));
  const rows = (await readFile(path, "utf8")).matchAll(/^\| `([A-Z_]+)` *\| `([A-Z_]+)`/gm);
  const documented = Object.fromEntries([...rows].map(([, reason, code]) => [reason, code]));
  expect(documented).toEqual(CODE_OF_REASON);
});
