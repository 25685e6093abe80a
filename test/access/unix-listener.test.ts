// The Unix socket: who may open it, and what is replaced by it.
import { execFile } from "node:child_process";
import { once } from "node:events";
import { lstat, readFile, symlink, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { listenUnix } from "../../src/access/unix-listener.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const nobody = () => undefined;

describe("a Unix socket", () => {
  it("is open to owner and group only, whatever the umask is", async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, "agent.sock");
    const before = process.umask(0);
    try {
      await using _ = await listenUnix(path, nobody);
      expect((await lstat(path)).mode & 0o777).toBe(0o660);
      expect(process.umask()).toBe(0);
    } finally {
      process.umask(before);
    }
    await expect(lstat(path)).rejects.toThrow("ENOENT");
  });

  it("takes the place of one whose process is dead", async () => {
    await using folder = await temporaryFolder();
    const path = join(folder.path, "agent.sock");
    const script = `require("net").createServer().listen(process.argv[1], () => process.kill(process.pid, 9))`;
    await once(execFile(process.execPath, ["-e", script, path]), "exit");
    expect((await lstat(path)).isSocket()).toBe(true);
    let taken = 0;
    await using _ = await listenUnix(path, () => (taken += 1));
    const client = connect(path);
    await once(client, "connect");
    client.destroy();
    expect((await lstat(path)).isSocket()).toBe(true);
    await expect(listenUnix(path, nobody)).rejects.toThrow("another process listens there");
  });

  it("never takes the place of a file that is no socket", async () => {
    await using folder = await temporaryFolder();
    const [file, link] = [join(folder.path, "file"), join(folder.path, "link")];
    await writeFile(file, "somebody's");
    await symlink(file, link);
    for (const path of [file, link]) {
      await expect(listenUnix(path, nobody)).rejects.toThrow("no socket is there");
    }
    expect(await readFile(file, "utf8")).toBe("somebody's");
  });
});
