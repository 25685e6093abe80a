// Exit codes (sysexits.h) and messages of the commands.
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { run } from "../../src/cli/cli.ts";
import { testDatabase } from "../support/database.ts";
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
    [["confirm-hosts"], 64, "one of --file and --all"],
    [["confirm-hosts", "--all", "--file", "x"], 64, "one of --file and --all"],
    [["confirm-hosts", "--file", "/nowhere"], 64, "/nowhere"],
  ])("%j exits with 64 (usage) and reports the wrong argument", async (args, code, words) => {
    const result = await storageNode(args);
    expect(result).toMatchObject({ code, out: "" });
    expect(result.err).toContain(words);
  });

  it.each([
    "--help",
    "help",
    "sim --help",
    "demo --help",
    "rebuild --help",
    "confirm-hosts --help",
  ])("%s prints the usage", async (line) => {
    const result = await storageNode(line.split(" "));
    expect(result).toMatchObject({ code: 0, err: "" });
    expect(result.out).toContain("usage: storage-node");
  });
});

describe("serve", () => {
  it("reports every configuration fault and exits with 78", async () => {
    const { code, err } = await storageNode(["serve"], {
      DATABASE_URL: "mysql://localhost/x",
      STORAGE_NODE_ID: "no spaces",
      STORAGE_NODE_LISTEN: "0.0.0.0:50051",
      STORAGE_NODE_EXPORT_ADDR: "storage-1",
      STORAGE_NODE_EXPORT_PORT: "99999",
      STORAGE_NODE_OVERCOMMIT: "much",
      STORAGE_NODE_METRICS_IOSTAT: "all",
      STORAGE_NODE_SPACE_LOW: "10,20",
      STORAGE_NODE_DISK_ALLOW: "colour:red",
      STORAGE_NODE_DISK_SETTLE: "a while",
      STORAGE_NODE_FABRIC_DISKS: "/there/is/no/such.json",
      STORAGE_NODE_SPDK_SOCKET: `/${"long".repeat(40)}`,
      LOG_LEVEL: "loud",
    });
    expect(code).toBe(78);
    const faults = err.match(/^ *(DATABASE_URL|STORAGE_NODE_\w+|LOG_LEVEL): /gm) ?? [];
    expect(faults.map((fault) => fault.trim().slice(0, -1)).toSorted()).toEqual([
      "DATABASE_URL",
      "LOG_LEVEL",
      "STORAGE_NODE_DISK_ALLOW",
      "STORAGE_NODE_DISK_SETTLE",
      "STORAGE_NODE_EXPORT_ADDR",
      "STORAGE_NODE_EXPORT_PORT",
      "STORAGE_NODE_FABRIC_DISKS",
      "STORAGE_NODE_ID",
      "STORAGE_NODE_LISTEN",
      "STORAGE_NODE_METRICS_IOSTAT",
      "STORAGE_NODE_OVERCOMMIT",
      "STORAGE_NODE_SPACE_LOW",
      "STORAGE_NODE_SPDK_SOCKET",
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
