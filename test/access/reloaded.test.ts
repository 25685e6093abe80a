// Files that are replaced: when they are read again, and what stays in force.
import { rename, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { FileFault, Reloaded } from "../../src/access/reloaded.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** Two files that must have the same text. */
async function pair() {
  const folder = await temporaryFolder();
  const [one, two] = [join(folder.path, "one"), join(folder.path, "two")];
  const write = async (path: string, text: string) => {
    await writeFile(`${path}.new`, text);
    await rename(`${path}.new`, path);
  };
  await write(one, "a");
  await write(two, "a");
  const files = new Reloaded([one, two], ([first, second]) => {
    if (String(first) !== String(second)) throw new FileFault("they differ");
    return String(first);
  });
  const dispose = async () => await folder[Symbol.asyncDispose]();
  return { one, two, write, files, folder: folder.path, [Symbol.asyncDispose]: dispose };
}

describe("files", () => {
  it("that are unchanged are not read again", async () => {
    await using given = await pair();
    const { files } = given;
    expect([files.look(), files.look(), files.look()]).toEqual([false, false, false]);
    expect(files.value).toBe("a");
  });

  it("that are written one after another count once none changes any more", async () => {
    await using given = await pair();
    const { files, one, two, write } = given;
    await write(one, "b");
    expect(files.look()).toBe(false);
    await write(two, "b");
    expect([files.look(), files.value, files.fault]).toEqual([false, "a", undefined]);
    expect([files.look(), files.value, files.fault]).toEqual([true, "b", undefined]);
  });

  it("that cannot be used leave the value as it was, until they can", async () => {
    await using given = await pair();
    const { files, one, write } = given;
    await write(one, "b");
    expect([files.look(), files.look(), files.value]).toEqual([false, true, "a"]);
    expect(files.fault?.reason).toBe("they differ");
    expect([files.look(), files.look()]).toEqual([false, false]);
    await write(one, "a");
    expect([files.look(), files.look(), files.fault]).toEqual([false, true, undefined]);
  });

  it("that are gone leave the value as it was", async () => {
    await using given = await pair();
    const { files, two } = given;
    await rm(two);
    expect([files.look(), files.look(), files.value]).toEqual([false, true, "a"]);
    expect(files.fault?.reason).toMatch(/^cannot read .*two: ENOENT/);
  });

  it("behind a symbolic link are read again when the link is switched", async () => {
    await using given = await pair();
    const { folder } = given;
    const link = join(folder, "link");
    await symlink(given.one, link);
    const files = new Reloaded([link], ([content]) => String(content));
    await writeFile(given.two, "b");
    await symlink(given.two, `${link}.new`);
    await rename(`${link}.new`, link);
    expect([files.look(), files.look(), files.value]).toEqual([false, true, "b"]);
  });

  it("that cannot be read at the start are a fault", () => {
    expect(() => new Reloaded(["/nowhere"], String)).toThrow(FileFault);
  });
});
