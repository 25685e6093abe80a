// The lock beside the target's socket: one agent of this user holds it, and nobody else can take, replace or
// misuse its file.
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmod,
  chown,
  link,
  lstat,
  mkdir,
  readFile,
  rename,
  symlink,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import { LocalLock } from "../../src/local/local-lock.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

async function place() {
  const folder = await temporaryFolder();
  const socket = join(folder.path, "spdk.sock");
  return {
    folder: folder.path,
    socket,
    file: `${socket}.agent`,
    [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
  };
}

const modeOf = async (path: string) => (await lstat(path)).mode & 0o777;

it("is a file that only its user can open", async () => {
  await using at = await place();
  using lock = new LocalLock(at.socket);
  expect(lock.hold()).toBe(true);
  expect(await modeOf(at.file)).toBe(0o600);
});

it("with a mode of an earlier version is taken from others, and stays the same file", async () => {
  await using at = await place();
  await writeFile(at.file, "");
  await chmod(at.file, 0o644);
  const { ino } = await lstat(at.file);
  using lock = new LocalLock(at.socket);
  expect(lock.hold()).toBe(true);
  expect(await lstat(at.file)).toMatchObject({ ino });
  expect(await modeOf(at.file)).toBe(0o600);
});

it("that another process holds with an earlier mode is not taken from it", async () => {
  await using at = await place();
  const holding = `const { DatabaseSync } = require("node:sqlite");
    const file = new DatabaseSync(process.argv[1]);
    file.exec("pragma journal_mode = memory; pragma locking_mode = exclusive; begin exclusive");
    process.stdout.write("held"); process.stdin.resume();`;
  const other = spawn(process.execPath, ["--no-warnings", "-e", holding, at.file]);
  await once(other.stdout, "data");
  await chmod(at.file, 0o644);
  using lock = new LocalLock(at.socket);
  expect(lock.hold()).toBe(false);
  expect(lock.reason).toContain("another agent holds");
  expect(await modeOf(at.file)).toBe(0o600);
  expect(lock.hold()).toBe(false);
  const gone = once(other, "exit");
  other.kill("SIGKILL");
  await gone;
  expect(lock.hold()).toBe(true);
});

it.each<[string, (at: { readonly file: string; readonly precious: string }) => Promise<void>]>([
  ["is a symbolic link", ({ file, precious }) => symlink(precious, file)],
  ["has 2 names", ({ file, precious }) => link(precious, file)],
  ["is no file", ({ file }) => mkdir(file)],
])("that %s is refused, and what it leads to is left as it is", async (why, plant) => {
  await using at = await place();
  const precious = join(at.folder, "precious");
  await writeFile(precious, "");
  await chmod(precious, 0o644);
  await plant({ file: at.file, precious });
  using lock = new LocalLock(at.socket);
  expect(lock.hold()).toBe(false);
  expect(lock.reason).toContain(why);
  expect(await readFile(precious, "utf8")).toBe("");
  expect(await modeOf(precious)).toBe(0o644);
});

it.skipIf(process.geteuid?.() !== 0)("of another user is refused", async () => {
  await using at = await place();
  await writeFile(at.file, "");
  await chown(at.file, 65_534, 65_534);
  using lock = new LocalLock(at.socket);
  expect(lock.hold()).toBe(false);
  expect(lock.reason).toContain("belongs to user 65534, not to 0");
});

it("is given up once its file is replaced", async () => {
  await using at = await place();
  using lock = new LocalLock(at.socket);
  expect(lock.hold()).toBe(true);
  await rename(at.file, `${at.file}.old`);
  await symlink(`${at.file}.old`, at.file);
  expect(lock.hold()).toBe(false);
  expect(lock.reason).toContain("was removed or replaced");
});
