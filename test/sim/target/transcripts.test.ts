// Replays scenarios recorded on a real target on the simulated one: every answer must match.
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { replay } from "./replay.ts";
import { simulator } from "./simulator.ts";
import { transcript } from "./transcript.ts";

const FOLDER = fileURLToPath(new URL("../../fixtures/transcripts/", import.meta.url));
const NAMES = readdirSync(FOLDER).toSorted();

function read(name: string) {
  return transcript.parse(JSON.parse(readFileSync(`${FOLDER}${name}`, "utf8")));
}

describe("a recorded scenario", () => {
  it.concurrent.each(NAMES)("%s is answered as recorded", async (name) => {
    const recorded = read(name);
    await using target = await simulator({ disks: recorded.disks });
    expect(await replay(recorded, target)).toEqual([]);
  });

  it("with an altered answer is reported as a mismatch", async () => {
    const recorded = read("04_lvstore.json");
    const altered = recorded.steps.map((step) =>
      "method" in step && step.method === "bdev_lvol_grow_lvstore"
        ? { ...step, expect: { result: false } }
        : step,
    );
    await using target = await simulator({ disks: recorded.disks });
    const found = await replay({ ...recorded, steps: altered }, target);
    expect(found.length).toBeGreaterThan(0);
    expect(found.every((one) => one.includes("bdev_lvol_grow_lvstore"))).toBe(true);
  });
});
