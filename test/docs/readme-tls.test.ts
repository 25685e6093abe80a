// The lines of README.md that turn TLS on, run as they stand.
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, it } from "vitest";
import { startAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { storageNode } from "../support/explain.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const README = fileURLToPath(new URL("../../README.md", import.meta.url));
const sh = promisify(execFile);
const hasOpenssl = await sh("openssl", ["version"]).then(
  () => true,
  () => false,
);

it.skipIf(!hasOpenssl)(
  "README.md turns TLS on, for an operator on the node and elsewhere",
  async () => {
    await using folder = await temporaryFolder();
    const text = await readFile(README, "utf8");
    const section = text.slice(text.indexOf("**Who may call.**"));
    const [setUp = "", use = ""] = [...section.matchAll(/```sh\n([^]*?)```/g)].map(
      ([, block = ""]) => block,
    );
    const script = `set -e\n${setUp}\nenv -0 | grep -z ^STORAGE_NODE_`;
    const { stdout } = await sh("bash", ["-c", script], { cwd: folder.path });
    const env = Object.fromEntries(
      stdout
        .split("\0")
        .filter((line) => line.startsWith("STORAGE_NODE_"))
        .map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]),
    );
    expect(Object.keys(env)).toHaveLength(5);
    await using database = await testDatabase();
    const target = { socket: join(folder.path, "nobody"), fabricDisks: "" };
    await using agent = await startAgent({ url: database.url, target }, env);
    const commands = use.split("\n").filter((line) => line !== "");
    expect(commands).toHaveLength(2);
    for (const command of commands) {
      const [, ...args] = command.replace(/ *#.*/, "").split(" ");
      const here = args.map((arg) => {
        if (/\.(sock|crt|key)$/.test(arg)) return join(folder.path, arg);
        return arg.replace(":50051", agent.address.slice(agent.address.lastIndexOf(":")));
      });
      const { code, out, err } = await storageNode(here);
      expect({ code, err }).toEqual({ code: 0, err: "" });
      expect(out).toMatch(/^node node-1 at .*NOT READY/);
      expect(out).toMatch(/^access +ok/m);
    }
  },
);
