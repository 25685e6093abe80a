// What a command answers to whoever starts it: exit codes of sysexits.h and sentences.
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

/** Runs a command until it ends, or until it was given time to say that it runs. */
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

/** What may have become of a schema, and what names it. */
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
  ])("%j ends with 64 (usage) and says what is wrong", async (args, code, words) => {
    const said = await storageNode(args);
    expect(said).toMatchObject({ code, out: "" });
    expect(said.err).toContain(words);
  });

  it.each(["--help", "help", "sim --help", "demo --help", "rebuild --help"])(
    "%s explains itself",
    async (line) => {
      const said = await storageNode(line.split(" "));
      expect(said).toMatchObject({ code: 0, err: "" });
      expect(said.out).toContain("usage: storage-node");
    },
  );
});

describe("serve", () => {
  it("tells every configuration fault at once and ends with 78", async () => {
    const { code, err } = await storageNode(["serve"], {
      DATABASE_URL: "mysql://localhost/x",
      STORAGE_NODE_ID: "no spaces",
      STORAGE_NODE_LISTEN: "0.0.0.0:50051",
      STORAGE_NODE_EXPORT_ADDR: "storage-1",
      STORAGE_NODE_EXPORT_PORT: "99999",
      STORAGE_NODE_OVERCOMMIT: "much",
      STORAGE_NODE_DISK_ALLOW: "colour:red",
      STORAGE_NODE_FABRIC_DISKS: "/there/is/no/such.json",
      STORAGE_NODE_SPDK_SOCKET: `/${"long".repeat(40)}`,
      LOG_LEVEL: "loud",
    });
    expect(code).toBe(78);
    const faults = err.match(/^ *(DATABASE_URL|STORAGE_NODE_\w+|LOG_LEVEL): /gm) ?? [];
    expect(faults.map((one) => one.trim().slice(0, -1)).toSorted()).toEqual([
      "DATABASE_URL",
      "LOG_LEVEL",
      "STORAGE_NODE_DISK_ALLOW",
      "STORAGE_NODE_EXPORT_ADDR",
      "STORAGE_NODE_EXPORT_PORT",
      "STORAGE_NODE_FABRIC_DISKS",
      "STORAGE_NODE_ID",
      "STORAGE_NODE_LISTEN",
      "STORAGE_NODE_OVERCOMMIT",
      "STORAGE_NODE_SPDK_SOCKET",
    ]);
  });

  it("ends with 1 and names the address when somebody has the port", async () => {
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

describe("serve on a schema that is not its own", () => {
  it.each(SPOILED)("ends with 1 where %s", async (_what, statement, words) => {
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
  it("asks for DATABASE_URL with 78", async () => {
    const { code, err } = await storageNode(["migrate"]);
    expect(code).toBe(78);
    expect(err).toContain("DATABASE_URL: is not set");
  });

  it("brings an empty database up to date, and finds it so the second time", async () => {
    await using database = await testDatabase({ migrated: false });
    const env = { DATABASE_URL: database.url };
    const first = await storageNode(["migrate"], env);
    expect(first).toMatchObject({ code: 0, err: "" });
    expect(first.out).toContain("applied ");
    const second = await storageNode(["migrate"], env);
    expect(second).toEqual({ code: 0, out: "schema is up to date\n", err: "" });
  });

  it.each(SPOILED)("refuses with 1 a schema in which %s", async (_what, statement, words) => {
    await using database = await testDatabase();
    await database.query(statement);
    const before = await database.query("select * from schema_migration order by version");
    const said = await storageNode(["migrate"], { DATABASE_URL: database.url });
    expect(said).toMatchObject({ code: 1, out: "" });
    expect(said.err).toContain(words);
    expect(await database.query("select * from schema_migration order by version")).toEqual(before);
  });

  it("ends with 1 in a sentence when the database is not there", async () => {
    const folder = await mkdtemp(join(tmpdir(), "sn-"));
    const url = `postgresql:///x?host=${folder}`;
    const { code, err } = await storageNode(["migrate"], { DATABASE_URL: url });
    expect(code).toBe(1);
    expect(err).toContain("storage-node migrate: ");
    await rm(folder, { recursive: true });
  });
});
