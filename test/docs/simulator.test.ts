import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { run } from "../../src/cli.ts";
import { simulator } from "../sim/simulator.ts";

const text = await readFile(
  fileURLToPath(new URL("../../docs/simulator.md", import.meta.url)),
  "utf8",
);

it("each control example of docs/simulator.md is answered as it says", async () => {
  const block = /```control\n(.*?)```/s.exec(text)?.[1] ?? "";
  const examples = block
    .trim()
    .split("\n")
    .map((line) => line.split(" -> "));
  expect(examples.length).toBeGreaterThan(10);
  await using sim = await simulator();
  const socket = connect(join(sim.folder, "control"));
  await once(socket, "connect");
  const answers = createInterface(socket)[Symbol.asyncIterator]();
  for (const [asked, answered = ""] of examples) {
    socket.write(`${asked}\n`);
    const { value } = await answers.next();
    expect({ asked, answer: JSON.parse(String(value)) as unknown }).toEqual({
      asked,
      answer: JSON.parse(answered) as unknown,
    });
  }
  socket.destroy();
});

it("docs/simulator.md explains every option that sim --help lists", async () => {
  let help = "";
  const io = {
    env: {},
    signal: new AbortController().signal,
    stdout: (said: string) => (help += said),
    stderr: () => {},
  };
  await run(["sim", "--help"], io);
  const options = [...help.matchAll(/--[a-z-]+/g)].map(([option]) => option);
  const explained = options.filter((option) => option !== "--help");
  expect(explained.filter((option) => !text.includes(`\`${option}`))).toEqual([]);
});
