// Executes the examples of docs/simulator.md on the simulator and compares its list of options.
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { run } from "../../src/cli/cli.ts";
import { simulator } from "../sim/target/simulator.ts";

const text = await readFile(
  fileURLToPath(new URL("../../docs/simulator.md", import.meta.url)),
  "utf8",
);

function linesOf(block: string): string[] {
  const found = new RegExp(`\`\`\`${block}\\n(.*?)\`\`\``, "s").exec(text)?.[1] ?? "";
  return found.trim().split("\n");
}

type Line = {
  readonly send: (line: string) => void;
  /** The next line received, parsed; throws when the connection closed. */
  readonly next: () => Promise<unknown>;
};

async function open(path: string): Promise<Line & Disposable> {
  const socket = connect(path);
  await once(socket, "connect");
  const lines = createInterface(socket)[Symbol.asyncIterator]();
  return {
    send: (line) => void socket.write(`${line}\n`),
    next: async () => {
      const { value, done } = await lines.next();
      if (done === true) throw new Error("the simulator closed the connection");
      return JSON.parse(value) as unknown;
    },
    [Symbol.dispose]: () => socket.destroy(),
  };
}

it("each control example of docs/simulator.md is answered as documented", async () => {
  const examples = linesOf("control").map((line) => line.split(" -> "));
  expect(examples.length).toBeGreaterThan(10);
  await using sim = await simulator();
  using control = await open(join(sim.folder, "control"));
  for (const [asked = "", answered = ""] of examples) {
    control.send(asked);
    expect({ asked, answer: await control.next() }).toEqual({
      asked,
      answer: JSON.parse(answered) as unknown,
    });
  }
});

it("the session of docs/simulator.md runs as documented with --strict, and ends with the kill", async () => {
  const session = linesOf("session");
  expect(session.length).toBeGreaterThan(20);
  await using sim = await simulator({ args: ["--strict"] });
  using rpc = await open(sim.socketPath);
  using control = await open(join(sim.folder, "control"));
  const killed = session.pop();
  expect(killed).toBe('control {"op":"kill"}');
  for (const line of session) {
    const [, kind = "", message = "", answered] = /^(\w+) (.*?)(?: -> (.*))?$/.exec(line) ?? [];
    const socket = kind === "control" || kind === "said" ? control : rpc;
    const asks = kind !== "said" && kind !== "late";
    if (asks) socket.send(message);
    if (kind === "sent") continue;
    const answer = await socket.next();
    const wanted = asks ? answered : message;
    if (wanted === undefined) expect({ line, answer }).toHaveProperty("answer.result");
    else expect({ line, answer }).toEqual({ line, answer: JSON.parse(wanted) as unknown });
  }
  const ended = sim.ended();
  control.send('{"op":"kill"}');
  expect(await ended).toEqual({ code: null, stderr: "" });
});

it("docs/simulator.md explains every option that sim --help lists", async () => {
  let help = "";
  const io = {
    env: {},
    signal: new AbortController().signal,
    stdout: (text: string) => (help += text),
    stderr: () => {},
  };
  await run(["sim", "--help"], io);
  const options = [...help.matchAll(/--[a-z-]+/g)].map(([option]) => option);
  const explained = options.filter((option) => option !== "--help");
  expect(explained.length).toBeGreaterThan(5);
  expect(explained.filter((option) => !text.includes(`\`${option}`))).toEqual([]);
});
