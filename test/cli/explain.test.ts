// The commands that ask a running agent, run as processes against an agent with a real database and
// a target.
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

/** Runs the program as a process, with the agent's address in STORAGE_NODE_LISTEN. */
async function program(...args: readonly string[]): Promise<Said> {
  const env = { ...process.env, STORAGE_NODE_LISTEN: agent.address };
  return await new Promise((resolve) => {
    const child = execFile(process.execPath, [PROGRAM, ...args], { env }, (_, out, err) =>
      resolve({ code: child.exitCode ?? -1, out, err }),
    );
  });
}

describe.skipIf(REAL_SOCKET !== undefined)("storage-node explain", () => {
  it("prints cause, cure, six answers and the next step", async () => {
    const result = await program("explain", "volume", volume);
    expect(result).toMatchObject({ code: 0, err: "" });
    expect(result.out).toMatch(
      new RegExp(`^volume ${volume} is UP: no host may connect to it\\ncure +call AllowHost`),
    );
    const numbered = result.out.match(/^[1-6] {2}(yes|NO|unknown) +\S.*\?$/gm) ?? [];
    expect(numbered.map((line) => line.slice(3, 6).trim())).toEqual([
      "yes",
      "yes",
      "yes",
      "yes",
      "NO",
      "yes",
    ]);
    expect(result.out).toContain("\nnext step   nothing: all is as wanted\n");
    expect(result.out).toContain(`grpcurl -d JSON -plaintext ${agent.address} storagenode.v1.`);
    // No escape sequences: the output goes to pipes and logs too.
    expect(result.out).not.toContain("\u001B");
    const tooLong = result.out.split("\n").filter((line) => line.length > 100);
    expect(tooLong.filter((line) => !line.startsWith("to call a method"))).toEqual([]);
  });

  it("explains a disk", async () => {
    const result = await program("explain", "disk", disk);
    expect(result).toMatchObject({ code: 0, err: "" });
    expect(result.out).toMatch(/^disk SIM\d is UP: \d+ of \d+ clusters free/);
    // The sixth is its health, which may not have been read yet.
    const numbered = result.out.match(/^[1-7] {2}(yes|NO|unknown)/gm) ?? [];
    expect(numbered.join(" ")).toMatch(/^1 {2}yes( [2-5] {2}yes){4} 6 {2}(yes|unknown) 7 {2}yes$/);
  });

  it("prints protobuf JSON", async () => {
    const result = await program("explain", "volume", volume, "--output", "json");
    expect(result).toMatchObject({ code: 0, err: "" });
    const answer: unknown = JSON.parse(result.out);
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
    [["volume"], "expected exactly one volume id"],
    [["node", NOBODY], 'the first argument must be "volume", "snapshot" or "disk"'],
    [["volume", NOBODY, "--output", "xml"], "--output must be text or json"],
    [["volume", NOBODY, "--frobnicate"], "--frobnicate"],
  ])("%j exits with 64 and reports the wrong argument", async (args, words) => {
    const result = await storageNode(["explain", ...args]);
    expect(result).toMatchObject({ code: 64, out: "" });
    expect(result.err).toContain(words);
    expect(result.err).toContain("usage: storage-node explain");
  });

  it("exits with 1 and prints the agent's refusal for an unknown id", async () => {
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
  it("shows components, capacity, volumes, disks and loops on one screen", async () => {
    const result = await program("status");
    expect(result).toMatchObject({ code: 0, err: "" });
    expect(result.out).toMatch(
      new RegExp(`^node node-1 at ${agent.address}: READY {3}agent [\\d.]+, target SPDK v`),
    );
    for (const component of ["database", "target", "lease", "kernel", "lock"]) {
      expect(result.out).toMatch(new RegExp(`^${component} +ok\\b`, "m"));
    }
    expect(result.out).toMatch(/^hold +no$/m);
    expect(result.out).toMatch(
      /^capacity +1 GiB of \S+ GiB promised, \S+ GiB free; 1 of 1022 exports$/m,
    );
    expect(result.out).toMatch(/^volumes +1 UP$/m);
    expect(result.out).toMatch(/^SIM0 +UP +64 GiB +\S+ GiB .* TCP 127\.0\.0\.1:9000$/m);
    expect(result.out).toMatch(/^export +\d+ +\d+ s ago \(wake\) +[\d.]+ ms$/m);
  });

  it("prints protobuf JSON", async () => {
    const result = await program("status", "--output", "json");
    expect(result).toMatchObject({ code: 0, err: "" });
    expect(JSON.parse(result.out)).toMatchObject({
      node: { nodeId: "node-1", lvolsByState: { LVOL_STATE_UP: "1" }, hold: { held: false } },
      health: { ready: true },
      disks: [{ status: { state: "DISK_STATE_UP" } }, { status: { state: "DISK_STATE_UP" } }],
    });
  });

  it("--watch prints again until SIGINT, then exits with 0", async () => {
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

  it("--watch clears a terminal, keeps to its width, and reports an unreachable agent", async () => {
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
    const result = await storageNode(["status", "--address", agent.address], { columns: 60 });
    expect(result.out.split("\n").filter((line) => line.length > 60)).toEqual([]);
  });

  it("shows which component failed, since when and why", async () => {
    await proxy.down();
    await refusal(provision(agent));
    const status = await storageNode(["status", "--address", agent.address]);
    await proxy.up();
    expect(status).toMatchObject({ code: 0, err: "" });
    expect(status.out).toMatch(/^node node-1 at \S+: NOT READY/);
    expect(status.out).toMatch(/^database +NOT OK +for \d+ s +the database cannot be reached/m);
    expect(status.out).toMatch(/^volumes +1 UP$/m);
  });
});

describe("a command that asks the agent", () => {
  it.each(["status", `explain volume ${NOBODY}`])(
    "%s exits with 1 if nothing listens at the address",
    async (line) => {
      const result = await storageNode([...line.split(" "), "--address", "127.0.0.1:1"]);
      expect(result).toMatchObject({ code: 1, out: "" });
      expect(result.err).toMatch(/nothing answers at 127\.0\.0\.1:1; is the agent running\?/);
    },
  );

  it("reports a server that is not an agent", async () => {
    const other = createServer((socket) => socket.end("HTTP/1.1 200 OK\r\n\r\n"));
    other.listen(0, "127.0.0.1");
    await once(other, "listening");
    const address = other.address();
    const port = typeof address === "object" && address !== null ? address.port : 0;
    const result = await storageNode(["status", "--address", `127.0.0.1:${port}`]);
    other.close();
    expect(result.code).toBe(1);
    expect(result.err).toMatch(/storage-node status: .*127\.0\.0\.1/);
  });
});
