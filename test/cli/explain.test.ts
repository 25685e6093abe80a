// The commands that ask a running agent: the real program, as an operator types it, against an agent
// over a real database and a target.
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { refusal, startAgent, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { DatabaseProxy } from "../support/database-proxy.ts";
import { storageNode, type Said } from "../support/explain.ts";
import { REAL_SOCKET, startTarget } from "../support/target.ts";
import { idOf, provision } from "../support/volumes.ts";

const PROGRAM = fileURLToPath(new URL("../../bin/storage-node.js", import.meta.url));
const NOBODY = "11111111-2222-4333-8444-555555555555";

const stack = new AsyncDisposableStack();
let proxy: DatabaseProxy;
let agent: TestAgent;
let volume: string;
let disk: string;

beforeAll(async () => {
  const database = stack.use(await testDatabase());
  proxy = stack.use(await DatabaseProxy.open(database.url));
  const target = stack.use(await startTarget());
  agent = stack.use(await startAgent({ url: proxy.url, target }));
  await agent.ready();
  volume = idOf(await provision(agent, { allowedHostNqns: [] }));
  disk = [...agent.node.agent.rows.disks()][0]?.id ?? "";
});

afterAll(async () => {
  await stack.disposeAsync();
});

/** The program as a process of its own, told where the agent is as `serve` is told. */
async function program(...args: readonly string[]): Promise<Said> {
  const env = { ...process.env, STORAGE_NODE_LISTEN: agent.address };
  return await new Promise((resolve) => {
    const child = execFile(process.execPath, [PROGRAM, ...args], { env }, (_, out, err) =>
      resolve({ code: child.exitCode ?? -1, out, err }),
    );
  });
}

describe.skipIf(REAL_SOCKET !== undefined)("storage-node explain", () => {
  it("prints cause, cure, six answers and what comes next", async () => {
    const said = await program("explain", "volume", volume);
    expect(said).toMatchObject({ code: 0, err: "" });
    expect(said.out).toMatch(
      new RegExp(`^volume ${volume} is UP: no host may connect to it\\ncure +call AllowHost`),
    );
    const numbered = said.out.match(/^[1-6] {2}(yes|NO|unknown) +\S.*\?$/gm) ?? [];
    expect(numbered.map((line) => line.slice(3, 6).trim())).toEqual([
      "yes",
      "yes",
      "yes",
      "yes",
      "NO",
      "yes",
    ]);
    expect(said.out).toContain("\nnext step   nothing: all is as wanted\n");
    expect(said.out).toContain(`grpcurl -plaintext -d JSON ${agent.address} storagenode.v1.`);
    // Nothing but text: it is read in pipes and logs, too.
    expect(said.out).not.toContain("\u001B");
    const tooLong = said.out.split("\n").filter((line) => line.length > 100);
    expect(tooLong.filter((line) => !line.startsWith("to call a method"))).toEqual([]);
  });

  it("explains a disk", async () => {
    const said = await program("explain", "disk", disk);
    expect(said).toMatchObject({ code: 0, err: "" });
    expect(said.out).toMatch(/^disk SIM\d is UP: \d+ of \d+ clusters free/);
    expect(said.out.match(/^[1-6] {2}yes/gm)).toHaveLength(6);
  });

  it("prints protobuf JSON", async () => {
    const said = await program("explain", "volume", volume, "--output", "json");
    expect(said).toMatchObject({ code: 0, err: "" });
    const answer: unknown = JSON.parse(said.out);
    expect(answer).toMatchObject({
      summary: expect.stringContaining(`volume ${volume} is UP`),
      nextStep: "nothing: all is as wanted",
      lastError: "",
    });
    expect(answer).toHaveProperty("checks.5.answer", "CHECK_ANSWER_YES");
    expect(answer).toHaveProperty("checks.4.answer", "CHECK_ANSWER_NO");
  });

  it.each([
    [["volume", "NOT-AN-ID"], '"NOT-AN-ID" is not an id'],
    [["volume"], "one id of a volume must be named"],
    [["snapshot", NOBODY], '"volume" or "disk" must be named first'],
    [["volume", NOBODY, "--output", "xml"], "--output must be text or json"],
    [["volume", NOBODY, "--frobnicate"], "--frobnicate"],
  ])("of %j ends with 64 and says what is wrong", async (args, words) => {
    const said = await storageNode(["explain", ...args]);
    expect(said).toMatchObject({ code: 64, out: "" });
    expect(said.err).toContain(words);
    expect(said.err).toContain("usage: storage-node explain");
  });

  it("ends with 1 in the agent's words for what it does not know", async () => {
    const address = ["--address", agent.address];
    const unknown = await storageNode(["explain", "volume", NOBODY, ...address]);
    expect(unknown).toEqual({
      code: 1,
      out: "",
      err: `storage-node explain: volume ${NOBODY} is not on this node\n`,
    });
    const mistaken = await storageNode(["explain", "volume", disk, ...address]);
    expect(mistaken.err).toContain("a disk has that id");
  });
});

describe.skipIf(REAL_SOCKET !== undefined)("storage-node status", () => {
  it("shows parts, capacity, volumes, disks and loops on one screen", async () => {
    const said = await program("status");
    expect(said).toMatchObject({ code: 0, err: "" });
    expect(said.out).toMatch(
      new RegExp(`^node node-1 at ${agent.address}: READY {3}agent [\\d.]+, target SPDK v`),
    );
    for (const part of ["database", "target", "lease", "kernel", "lock"]) {
      expect(said.out).toMatch(new RegExp(`^${part} +ok\\b`, "m"));
    }
    expect(said.out).toMatch(/^hold +no$/m);
    expect(said.out).toMatch(
      /^capacity +1 GiB of \S+ GiB promised, \S+ GiB free; 1 of 1022 exports$/m,
    );
    expect(said.out).toMatch(/^volumes +1 UP$/m);
    expect(said.out).toMatch(/^SIM0 +UP +64 GiB +\S+ GiB .* TCP 127\.0\.0\.1:9000$/m);
    expect(said.out).toMatch(/^export +\d+ +\d+ s ago \(wake\) +[\d.]+ ms$/m);
  });

  it("prints protobuf JSON", async () => {
    const said = await program("status", "--output", "json");
    expect(said).toMatchObject({ code: 0, err: "" });
    expect(JSON.parse(said.out)).toMatchObject({
      node: { nodeId: "node-1", lvolsByState: { LVOL_STATE_UP: "1" }, hold: { held: false } },
      health: { ready: true },
      disks: [{ status: { state: "DISK_STATE_UP" } }, { status: { state: "DISK_STATE_UP" } }],
    });
  });

  it("--watch draws again until it is told to stop, and then ends with 0", async () => {
    const env = { ...process.env, STORAGE_NODE_LISTEN: agent.address };
    const child = spawn(process.execPath, [PROGRAM, "status", "--watch"], { env });
    let out = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      out += text;
      if ((out.match(/^node node-1/gm) ?? []).length >= 2) child.kill("SIGINT");
    });
    const [code] = await once(child, "exit");
    expect({ code, screens: out.match(/^volumes +1 UP$/gm)?.length }).toEqual({
      code: 0,
      screens: 2,
    });
  });

  it("--watch draws over the last screen in a terminal, no wider than it, and tells an agent that is gone", async () => {
    const stop = new AbortController();
    const screens: string[] = [];
    await storageNode(["status", "--watch", "--address", "127.0.0.1:1"], {
      signal: stop.signal,
      columns: 60,
      onOutput: (text) => {
        screens.push(text);
        stop.abort();
      },
    });
    expect(screens).toHaveLength(1);
    expect(screens[0]).toContain("\u001B[H\u001B[2J");
    expect(screens[0]).toContain("nothing answers at 127.0.0.1:1");
    const said = await storageNode(["status", "--address", agent.address], { columns: 60 });
    expect(said.out.split("\n").filter((line) => line.length > 60)).toEqual([]);
  });

  it("shows which part is away, since when and why", async () => {
    await proxy.down();
    await refusal(provision(agent));
    const away = await storageNode(["status", "--address", agent.address]);
    await proxy.up();
    expect(away).toMatchObject({ code: 0, err: "" });
    expect(away.out).toMatch(/^node node-1 at \S+: NOT READY/);
    expect(away.out).toMatch(/^database +NOT OK +for \d+ s +the database cannot be reached/m);
    expect(away.out).toMatch(/^volumes +1 UP$/m);
  });
});

describe("a command that asks the agent", () => {
  it.each(["status", `explain volume ${NOBODY}`])(
    "%s ends with 1 and says so when nothing answers",
    async (line) => {
      const said = await storageNode([...line.split(" "), "--address", "127.0.0.1:1"]);
      expect(said).toMatchObject({ code: 1, out: "" });
      expect(said.err).toMatch(/nothing answers at 127\.0\.0\.1:1; is the agent running\?/);
    },
  );

  it("says so when what answers is no agent", async () => {
    const other = createServer((socket) => socket.end("HTTP/1.1 200 OK\r\n\r\n"));
    other.listen(0, "127.0.0.1");
    await once(other, "listening");
    const address = other.address();
    const port = typeof address === "object" && address !== null ? address.port : 0;
    const said = await storageNode(["status", "--address", `127.0.0.1:${port}`]);
    other.close();
    expect(said.code).toBe(1);
    expect(said.err).toMatch(/storage-node status: .*127\.0\.0\.1/);
  });
});
