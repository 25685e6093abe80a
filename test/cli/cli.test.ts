// Exit codes (sysexits.h) and messages of the commands.
import { spawn } from "node:child_process";
import { lstat, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { run } from "../../src/cli/cli.ts";
import { testDatabase } from "../support/database.ts";
import { VOLUME } from "../support/model.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

type Said = { readonly code: number; readonly out: string; readonly err: string };

/** Runs a command until it ends, with its output. */
async function storageNode(
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
  signal: AbortSignal = new AbortController().signal,
): Promise<Said> {
  let [out, err] = ["", ""];
  const code = await run(args, {
    env,
    signal,
    stdout: (text) => (out += `${text}\n`),
    stderr: (text) => (err += `${text}\n`),
  });
  return { code, out, err };
}

const DISKS = fileURLToPath(new URL("./no-disks.json", import.meta.url));

/** The socket of a process that was killed. */
async function staleSocket(path: string): Promise<void> {
  const listen = `require("net").createServer().listen(process.argv[1], () => process.kill(process.pid, "SIGKILL"))`;
  await once(spawn(process.execPath, ["-e", listen, path]), "exit");
  expect((await lstat(path)).isSocket()).toBe(true);
}

/** Changes to schema_migration that every command must refuse, and the message for each. */
const SPOILED = [
  [
    "a migration was edited after it ran",
    "update schema_migration set checksum = 'another' where version = 1",
    "was edited after it ran",
  ],
  [
    "a migration ran that this program does not have",
    `insert into schema_migration (version, name, checksum)
     select max(version) + 1, '999999_later.sql', 'x' from schema_migration`,
    "the schema is newer than this",
  ],
] as const;

describe("storage-node", () => {
  it.each([
    [["frobnicate"], 64, 'unknown command "frobnicate"'],
    [[], 64, "usage: storage-node COMMAND"],
    [["serve", "--port", "1"], 64, "--port"],
    [["migrate", "now"], 64, "now"],
    [["sim"], 64, "--socket"],
    [["sim", "--frobnicate"], 64, "--frobnicate"],
    [["demo", "--frobnicate"], 64, "--frobnicate"],
    [["rebuild", "--frobnicate"], 64, "--frobnicate"],
    [["rebuild", "--without", "SER1", "--without", ""], 64, "--without must not be empty"],
    [["confirm-hosts"], 64, "one of --file and --all"],
    [["confirm-hosts", "--all", "--file", "x"], 64, "one of --file and --all"],
    [["confirm-hosts", "--file", "/nowhere"], 64, "/nowhere"],
    [["demo", "--state", ""], 64, "--state must not be empty"],
    [["sim", "--socket", ""], 64, "--socket must not be empty"],
    [["sim", "--socket", "s", "--disks", "d", "--control", ""], 64, "--control must not be empty"],
    [["status", "--address", ""], 64, "--address must not be empty"],
    [["explain", "volume", ""], 64, "an argument must not be empty"],
    [["confirm-hosts", "--file", ""], 64, "--file must not be empty"],
  ])("%j exits with 64 (usage) and reports the wrong argument", async (args, code, words) => {
    // Nothing is started, also where the fault is overlooked.
    const result = await storageNode(args, {}, AbortSignal.abort());
    expect(result).toMatchObject({ code, out: "" });
    expect(result.err).toContain(words);
  });

  it.each(["--help", "help"])("%s prints the usage", async (line) => {
    const result = await storageNode(line.split(" "));
    expect(result).toMatchObject({ code: 0, err: "" });
    expect(result.out).toContain("usage: storage-node");
  });
});

describe("bad input", () => {
  it.each<[readonly string[], Readonly<Record<string, string>>, number, string]>([
    [["migrate"], { DATABASE_URL: "postgresql://[" }, 78, "DATABASE_URL"],
    [["migrate"], { DATABASE_URL: "postgresql://x:99999999/y" }, 78, "DATABASE_URL"],
    [["migrate"], { DATABASE_URL: "nonsense" }, 1, "migrate: "],
    [["status", "--address", "nobody:1:2:3"], {}, 1, "nobody:1:2:3"],
    [["status", "--address", "bad://x y"], {}, 1, "bad://x y"],
    [["status"], { STORAGE_NODE_LISTEN: "x\ny" }, 1, "x"],
    [["explain", "disk", VOLUME, "--address", "["], {}, 1, "["],
    [["rebuild"], { DATABASE_URL: "postgresql://[" }, 1, "rebuild: "],
    [["sim", "--socket", "/nowhere/s", "--disks", DISKS], {}, 1, "/nowhere/s"],
    [["demo", "--state", "/dev/null/x"], {}, 1, "/dev/null/x"],
  ])("of %j with %j is one line, without a stack", async (args, env, code, words) => {
    const result = await storageNode(args, env);
    expect(result).toMatchObject({ code, out: "" });
    expect(result.err).toContain(words);
    expect(result.err).not.toMatch(/^\s+at /m);
    expect(result.err.trimEnd().split("\n")).toHaveLength(1);
  });
});

describe("sim", () => {
  it("replaces a socket that was left over, and never another file", async () => {
    await using folder = await temporaryFolder();
    const [socket, control] = [join(folder.path, "s"), join(folder.path, "c")];
    const sim = (...paths: readonly string[]) => {
      const args = paths.flatMap((path, index) => [index === 0 ? "--socket" : "--control", path]);
      return storageNode(["sim", "--disks", DISKS, ...args], {}, AbortSignal.abort());
    };
    await writeFile(control, "precious");
    expect(await sim(socket, control)).toMatchObject({ code: 1, out: "" });
    expect(await sim(control)).toMatchObject({ code: 1, out: "" });
    await symlink(control, socket);
    expect(await sim(socket)).toMatchObject({ code: 1, out: "" });
    await rm(socket);
    await writeFile(`${socket}.lock`, "precious");
    expect(await sim(socket)).toMatchObject({ code: 1, out: "" });
    expect(await readFile(control, "utf8")).toBe("precious");
    expect(await readFile(`${socket}.lock`, "utf8")).toBe("precious");
    await rm(`${socket}.lock`);
    await staleSocket(socket);
    await rm(control);
    await staleSocket(control);
    expect(await sim(socket, control)).toMatchObject({ code: 0 });
  });
});

it.each([
  "serve",
  "migrate",
  "status",
  "explain",
  "disk",
  "delete",
  "doctor",
  "rebuild",
  "confirm-hosts",
  "demo",
  "sim",
])("%s --help prints its usage and ends with 0", async (command) => {
  const { code, out, err } = await storageNode([command, "--help"]);
  expect({ code, err }).toEqual({ code: 0, err: "" });
  expect(out).toContain(`usage: storage-node ${command}`);
});

describe("serve", () => {
  it("reports every configuration fault and exits with 78", async () => {
    const { code, err } = await storageNode(["serve"], {
      DATABASE_URL: "mysql://localhost/x",
      STORAGE_NODE_ID: "no spaces",
      STORAGE_NODE_LISTEN: "127.evil.example:50051",
      STORAGE_NODE_HTTP_LISTEN: "127.0.0.1.evil.example:9464",
      STORAGE_NODE_EXPORT_ADDR: "storage-1",
      STORAGE_NODE_EXPORT_PORT: "99999",
      STORAGE_NODE_OVERCOMMIT: "much",
      STORAGE_NODE_METRICS_IOSTAT: "all",
      STORAGE_NODE_ZEROING: "sometimes",
      STORAGE_NODE_ZEROING_HOLD: "sometimes",
      STORAGE_NODE_ZEROING_SHARE: "0",
      STORAGE_NODE_SPACE_LOW: "10,20",
      STORAGE_NODE_TARGET_SILENCE: "0",
      STORAGE_NODE_DISK_ALLOW: "colour:red",
      STORAGE_NODE_DISK_HEALTH: "wear:much",
      STORAGE_NODE_DISK_SETTLE: "a while",
      STORAGE_NODE_FABRIC_DISKS: "/there/is/no/such.json",
      STORAGE_NODE_SPDK_SOCKET: `/${"long".repeat(40)}`,
      STORAGE_NODE_SOCKET: `/${"long".repeat(40)}`,
      LOG_LEVEL: "loud",
    });
    expect(code).toBe(78);
    const faults = err.match(/^ *(DATABASE_URL|STORAGE_NODE_\w+|LOG_LEVEL): /gm) ?? [];
    expect(faults.map((fault) => fault.trim().slice(0, -1)).toSorted()).toEqual([
      "DATABASE_URL",
      "LOG_LEVEL",
      "STORAGE_NODE_DISK_ALLOW",
      "STORAGE_NODE_DISK_HEALTH",
      "STORAGE_NODE_DISK_SETTLE",
      "STORAGE_NODE_EXPORT_ADDR",
      "STORAGE_NODE_EXPORT_PORT",
      "STORAGE_NODE_FABRIC_DISKS",
      "STORAGE_NODE_HTTP_LISTEN",
      "STORAGE_NODE_ID",
      "STORAGE_NODE_LISTEN",
      "STORAGE_NODE_METRICS_IOSTAT",
      "STORAGE_NODE_OVERCOMMIT",
      "STORAGE_NODE_SOCKET",
      "STORAGE_NODE_SPACE_LOW",
      "STORAGE_NODE_SPDK_SOCKET",
      "STORAGE_NODE_TARGET_SILENCE",
      "STORAGE_NODE_ZEROING",
      "STORAGE_NODE_ZEROING_HOLD",
      "STORAGE_NODE_ZEROING_SHARE",
    ]);
  });

  it("exits with 1 and names the address if the port is in use", async () => {
    await using folder = await temporaryFolder();
    const taken = createServer();
    taken.listen(0, "127.0.0.1");
    await once(taken, "listening");
    const address = taken.address();
    const port = typeof address === "object" && address !== null ? address.port : 0;
    const { code, err } = await storageNode(["serve"], {
      DATABASE_URL: `postgresql:///x?host=${folder.path}`,
      STORAGE_NODE_LISTEN: `127.0.0.1:${port}`,
      STORAGE_NODE_HTTP_LISTEN: "127.0.0.1:0",
      STORAGE_NODE_SPDK_SOCKET: join(folder.path, "s"),
      STORAGE_NODE_STATE_DIR: folder.path,
      STORAGE_NODE_ROOT: folder.path,
      LOG_LEVEL: "fatal",
    });
    expect(code).toBe(1);
    expect(err).toContain(`127.0.0.1:${port}`);
    taken.close();
  });
});

describe("serve on a schema of another version", () => {
  it.each(SPOILED)("exits with 1 if %s", async (_what, statement, words) => {
    await using database = await testDatabase();
    await using folder = await temporaryFolder();
    await database.query(statement);
    const { code, err } = await storageNode(["serve"], {
      DATABASE_URL: database.url,
      STORAGE_NODE_LISTEN: "127.0.0.1:0",
      STORAGE_NODE_HTTP_LISTEN: "127.0.0.1:0",
      STORAGE_NODE_SPDK_SOCKET: join(folder.path, "s"),
      STORAGE_NODE_STATE_DIR: folder.path,
      STORAGE_NODE_ROOT: folder.path,
      LOG_LEVEL: "fatal",
    });
    expect(code).toBe(1);
    expect(err).toContain(words);
  });
});

describe("migrate", () => {
  it("exits with 78 without DATABASE_URL", async () => {
    const { code, err } = await storageNode(["migrate"]);
    expect(code).toBe(78);
    expect(err).toContain("DATABASE_URL: is not set");
  });

  it("migrates an empty database, and changes nothing the second time", async () => {
    await using database = await testDatabase({ migrated: false });
    const env = { DATABASE_URL: database.url };
    const first = await storageNode(["migrate"], env);
    expect(first).toMatchObject({ code: 0, err: "" });
    expect(first.out).toContain("applied ");
    const second = await storageNode(["migrate"], env);
    expect(second).toEqual({ code: 0, out: "schema is up to date\n", err: "" });
  });

  it.each(SPOILED)("exits with 1 if %s", async (_what, statement, words) => {
    await using database = await testDatabase();
    await database.query(statement);
    const before = await database.query("select * from schema_migration order by version");
    const result = await storageNode(["migrate"], { DATABASE_URL: database.url });
    expect(result).toMatchObject({ code: 1, out: "" });
    expect(result.err).toContain(words);
    expect(await database.query("select * from schema_migration order by version")).toEqual(before);
  });

  it("exits with 1 and a message if the database is unreachable", async () => {
    const folder = await mkdtemp(join(tmpdir(), "sn-"));
    const url = `postgresql:///x?host=${folder}`;
    const { code, err } = await storageNode(["migrate"], { DATABASE_URL: url });
    expect(code).toBe(1);
    expect(err).toContain("storage-node migrate: ");
    await rm(folder, { recursive: true });
  });
});
