// The local copy as the agent keeps it: what is in the file once something is kept, and that no file
// stays that says more than what is committed.
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pino } from "pino";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { COPY_COMPACT_BYTES } from "../../src/limits.ts";
import { CopyFile } from "../../src/local/copy-file.ts";
import { parseCopy } from "../../src/local/copy-format.ts";
import { LocalMemory } from "../../src/local/local-memory.ts";
import { uuidV5 } from "../../src/model/identity.ts";
import { LocalCopy } from "../../src/store/local-copy.ts";
import { Rows } from "../../src/store/rows.ts";
import { diskRow, FLEET, lvolRow, NODE, PREFIX, VOLUME } from "../support/model.ts";
import { temporaryFolder, type TemporaryFolder } from "../support/temporary-folder.ts";

const log = pino({ level: "silent" });
const node = { nodeId: NODE, fleet: FLEET, nqnPrefix: PREFIX };
const A = "nqn.2026-11.io.host:a";
const B = "nqn.2026-11.io.host:b";

let folder: TemporaryFolder;
let files: AsyncDisposableStack;
let rows: Rows;
let revision: bigint;

beforeEach(async () => {
  files = new AsyncDisposableStack();
  folder = files.use(await temporaryFolder());
  rows = new Rows();
  revision = 1n;
  commit({ disks: [diskRow()], lvols: [lvolRow({ hosts: [A, B] })] });
});

afterEach(async () => {
  await files.disposeAsync();
});

function commit(changed: Omit<Parameters<Rows["apply"]>[0], "node">): void {
  revision += 1n;
  rows.apply({
    node: { nodeId: NODE, cordoned: false, targetProcess: undefined, revision },
    ...changed,
  });
}

const copyFile = () => files.use(new CopyFile(folder.path));

function open(file: ConstructorParameters<typeof LocalCopy>[0]["file"] = copyFile()) {
  return new LocalCopy({ file, rows, node, log });
}

const text = async () => await readFile(join(folder.path, "copy.jsonl"), "utf8");
const hosts = async () => parseCopy(await text())?.volumes.map(({ hosts }) => hosts);

describe("the copy of an agent that leads", () => {
  it("has what was committed once that is kept, for its owner only", async () => {
    await using copy = open();
    await copy.lead(7n);
    expect(await hosts()).toEqual([[A, B]]);
    commit({ lvols: [lvolRow({ hosts: [A], generation: 2n })] });
    await copy.keep();
    const said = parseCopy(await text());
    expect(said?.volumes.map(({ hosts }) => hosts)).toEqual([[A]]);
    expect(said?.header).toMatchObject({ epoch: 7n, revision, ...node });
    expect((await stat(join(folder.path, "copy.jsonl"))).mode & 0o777).toBe(0o600);
    expect(copy.status).toMatchObject({ ok: true, reason: "" });
  });

  it("has no tombstones, and no volume whose row is gone", async () => {
    await using copy = open();
    const gone = uuidV5(VOLUME, "gone");
    commit({ lvols: [lvolRow({ id: gone })] });
    await copy.lead(7n);
    const time = new Date();
    commit({ lvols: [lvolRow({ deleteRequestedTime: time, deleteTime: time })] });
    await copy.keep();
    expect(parseCopy(await text())?.volumes.map(({ id }) => id)).toEqual([gone]);
    rows.replace({
      node: { nodeId: NODE, cordoned: false, targetProcess: undefined, revision },
      lvols: [],
      snapshots: [],
      disks: [],
      controllers: [],
    });
    await copy.keep();
    expect(parseCopy(await text())).toMatchObject({ volumes: [], disks: [] });
  });

  it("is replaced when it exceeds twice what it has to say, and says the same", async () => {
    await using copy = open();
    await copy.lead(7n);
    let written = 0;
    let longest = 0;
    for (let round = 0; written < 3 * COPY_COMPACT_BYTES; round += 1) {
      commit({ lvols: [lvolRow({ hosts: round % 2 === 0 ? [A] : [A, B] })] });
      await copy.keep();
      const { length } = await text();
      longest = Math.max(longest, length);
      written += 800;
    }
    expect(longest).toBeLessThan(COPY_COMPACT_BYTES + 2_000);
    expect(parseCopy(await text())?.volumes).toHaveLength(1);
  });

  it("is not appended to for status that it does not have", async () => {
    await using copy = open();
    await copy.lead(7n);
    const before = await text();
    commit({ lvols: [lvolRow({ hosts: [A, B], attempt: 3, lastError: "refused" })] });
    await copy[Symbol.asyncDispose]();
    expect((await text()).split("\n").filter((line) => line.startsWith('{"volume"'))).toEqual(
      before.split("\n").filter((line) => line.startsWith('{"volume"')),
    );
  });

  it("is not touched before the agent leads, nor after it lost the lease", async () => {
    await writeFile(join(folder.path, "copy.jsonl"), "another's\n");
    await using copy = open();
    commit({ lvols: [lvolRow({ hosts: [A] })] });
    await copy.keep();
    expect(await text()).toBe("another's\n");
    await copy.lead(7n);
    copy.pause();
    const before = await text();
    commit({ lvols: [lvolRow({ hosts: [] })] });
    await copy.keep();
    expect(await text()).toBe(before);
  });
});

describe("a copy that must not be used", () => {
  it("says nothing any more once another agent leads", async () => {
    await using copy = open();
    await copy.lead(7n);
    await copy.standDown();
    expect(await text()).toBe("");
  });

  it("keeps what it knows on hold, and says that the node is on hold", async () => {
    await using copy = open();
    await copy.lead(7n);
    const known = revision;
    rows.replace({
      node: { nodeId: NODE, cordoned: false, targetProcess: undefined, revision: 1n },
      lvols: [],
      snapshots: [],
      disks: [],
      controllers: [],
    });
    await copy.hold("older database", 9n);
    const said = parseCopy(await text());
    expect(said?.header).toMatchObject({ hold: "older database", epoch: 7n, revision: known });
    expect(said?.volumes).toHaveLength(1);
    await copy.lead(9n);
    expect(parseCopy(await text())?.header.hold).toBeUndefined();
  });

  it.each([
    ["another node", { ...node, nodeId: "node-2" }, /nodeId "node-1", this is "node-2"/],
    ["another fleet", { ...node, fleet: "prod" }, /fleet/],
    ["another prefix", { ...node, nqnPrefix: "nqn.2026-11.io.other" }, /nqnPrefix/],
  ])("is not read by %s, and health says why", async (_what, other, why) => {
    await using copy = open();
    await copy.lead(7n);
    const file = copyFile();
    await using stranger = new LocalCopy({ file, rows: new Rows(), node: other, log });
    expect(stranger.read(new LocalMemory(folder.path))).toBeUndefined();
    expect(stranger.status.reason).toMatch(why);
  });

  it("is not read when it is damaged, or older than what the node remembers", async () => {
    await using copy = open();
    await copy.lead(7n);
    const memory = new LocalMemory(folder.path);
    expect(copy.read(memory)?.volumes).toHaveLength(1);
    memory.write({ nodeId: NODE, fleet: FLEET, epoch: 7n, revision: revision + 1n });
    expect(copy.read(memory)).toBeUndefined();
    expect(copy.status.reason).toContain("older than what this node remembers");
    await writeFile(join(folder.path, "copy.jsonl"), "{}\n");
    expect(copy.read(memory)).toBeUndefined();
    expect(copy.status.reason).toContain("line 1 cannot be read");
  });
});

describe("a copy that cannot be written", () => {
  it("is empty before what was committed is answered, and whole once it can be written", async () => {
    const file = copyFile();
    let full = false;
    const checked = <T>(write: () => Promise<T>) =>
      full ? Promise.reject(new Error("ENOSPC")) : write();
    await using copy = open({
      path: file.path,
      read: () => file.read(),
      replace: (lines) => checked(() => file.replace(lines)),
      append: (lines) => checked(() => file.append(lines)),
      sync: () => file.sync(),
      invalidate: () => file.invalidate(),
    });
    await copy.lead(7n);
    full = true;
    commit({ lvols: [lvolRow({ hosts: [A] })] });
    await copy.keep();
    expect(await text()).toBe("");
    expect(copy.status).toMatchObject({ ok: false });
    expect(copy.status.reason).toContain("ENOSPC");
    full = false;
    await copy.lead(8n);
    expect(await hosts()).toEqual([[A]]);
  });

  it("rejects as long as an old copy is there that cannot be removed", async () => {
    const file = copyFile();
    let readOnly = false;
    const checked = <T>(write: () => Promise<T>) =>
      readOnly ? Promise.reject(new Error("EROFS")) : write();
    await using copy = open({
      path: file.path,
      read: () => file.read(),
      replace: (lines) => checked(() => file.replace(lines)),
      append: (lines) => checked(() => file.append(lines)),
      sync: () => file.sync(),
      invalidate: () => checked(() => file.invalidate()),
    });
    await copy.lead(7n);
    readOnly = true;
    commit({ lvols: [lvolRow({ hosts: [A] })] });
    await expect(copy.keep()).rejects.toThrow("EROFS");
    await expect(copy.keep()).rejects.toThrow("EROFS");
    expect(await hosts()).toEqual([[A, B]]);
    readOnly = false;
    await copy.keep();
    expect(await text()).toBe("");
  });

  it("is emptied by a file system on which only its folder is broken", async () => {
    await using copy = open();
    await copy.lead(7n);
    await mkdir(join(folder.path, "copy.jsonl.new"));
    await copy.lead(8n);
    expect(await text()).toBe("");
    expect(copy.status.ok).toBe(false);
  });
});
