// The bench itself, in small: every row is measured and written down. What it measures is not judged
// here, as times of small numbers on a busy machine say nothing.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { z } from "zod";
import { temporaryFolder } from "../support/temporary-folder.ts";

const BENCH = fileURLToPath(new URL("bench.ts", import.meta.url));

const spread = z.object({ min: z.number(), median: z.number(), max: z.number() });

const results = z.object({
  machine: z.object({ cores: z.number(), contended: z.boolean() }),
  rows: z.record(
    z.string(),
    z.object({ lines: z.array(z.object({ what: z.string(), ours: spread })).min(1) }),
  ),
});

test("a quick bench measures every row, writes JSON and a plot, and ends by itself", async () => {
  await using folder = await temporaryFolder();
  const child = spawn(process.execPath, [BENCH, "--quick", "--out", folder.path], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let said = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => (said += text));
  const [code] = await once(child, "close");

  expect(said).not.toContain("FAILED");
  expect(code).toBe(0);
  const { rows } = results.parse(
    JSON.parse(await readFile(join(folder.path, "bench.json"), "utf8")),
  );
  expect(Object.keys(rows)).toEqual([
    "provision",
    "one-volume",
    "restart",
    "get-export",
    "idle",
    "scale",
  ]);
  expect(said).toContain("stream-iostat: not there yet");
  expect(await readFile(join(folder.path, "scale.svg"), "utf8")).toMatch(/^<svg[^]*one volume/);
}, 240_000);
