// Compares docs/errors.md with the code: reasons and codes, names it mentions, reserved reasons.
import { status } from "@grpc/grpc-js";
import { glob, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { CODE_OF_REASON } from "../../src/model/errors.ts";

const SRC = fileURLToPath(new URL("../../src/", import.meta.url));
const text = await readFile(
  fileURLToPath(new URL("../../docs/errors.md", import.meta.url)),
  "utf8",
);

it("docs/errors.md names every reason with its code, and no other", () => {
  const rows = text.matchAll(/^\| `([A-Z_]+)` *\| `([A-Z_]+)`/gm);
  const documented = Object.fromEntries([...rows].map(([, reason, code]) => [reason, code]));
  expect(documented).toEqual(CODE_OF_REASON);
});

it("docs/errors.md mentions no reason, code or setting that does not exist", async () => {
  const settings = await readFile(join(SRC, "config.ts"), "utf8");
  const known = new Set([...Object.keys(CODE_OF_REASON), ...Object.keys(status)]);
  const mentioned = [...text.matchAll(/`([A-Z]+(?:_[A-Z]+)*)(?:=[a-z]+)?`/g)].map(
    ([, name = ""]) => name,
  );
  expect(mentioned.length).toBeGreaterThan(Object.keys(CODE_OF_REASON).length);
  const unknown = mentioned.filter((name) => !known.has(name) && !settings.includes(name));
  expect(unknown).toEqual([]);
});

it("docs/errors.md marks as reserved exactly the reasons that no Refusal in src/ uses", async () => {
  const refusing = new Set<string>();
  for await (const file of glob("**/*.ts", { cwd: SRC })) {
    const source = await readFile(join(SRC, file), "utf8");
    for (const [, reason = ""] of source.matchAll(/new Refusal\(\s*"([A-Z_]+)"/g)) {
      refusing.add(reason);
    }
  }
  const reserved = [...text.matchAll(/^\| `([A-Z_]+)` .*\breserved\b/gm)].map(
    ([, name = ""]) => name,
  );
  const unused = Object.keys(CODE_OF_REASON).filter((reason) => !refusing.has(reason));
  expect(reserved.toSorted()).toEqual(unused.toSorted());
});
