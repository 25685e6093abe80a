// bin/storage-node.js, which runs the program under Node 24: what becomes of the agent when it is killed.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { until } from "../support/agent.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const PROGRAM = fileURLToPath(new URL("../../bin/storage-node.js", import.meta.url));

it("leaves no agent behind that nobody supervises when it is killed with -9", async () => {
  await using folder = await temporaryFolder();
  const env = {
    ...process.env,
    DATABASE_URL: `postgresql:///x?host=${folder.path}`,
    STORAGE_NODE_LISTEN: "127.0.0.1:0",
    STORAGE_NODE_HTTP_LISTEN: "off",
    STORAGE_NODE_STATE_DIR: folder.path,
    STORAGE_NODE_SPDK_SOCKET: join(folder.path, "spdk.sock"),
  };
  const stdio: ["ignore", "pipe", "inherit"] = ["ignore", "pipe", "inherit"];
  const launcher = spawn(process.execPath, [PROGRAM, "serve"], { env, stdio });
  let out = "";
  launcher.stdout.setEncoding("utf8").on("data", (text: string) => (out += text));
  await until("the agent has started", () => out.includes('"agent started"'));
  const { pid = 0 } = launcher;
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, "utf8");
  const agent = Number(children.trim());
  expect(agent).toBeGreaterThan(1);
  launcher.kill("SIGKILL");
  // Both have this output open.
  const ended = once(launcher, "close").then(() => true);
  const waited = until("the agent has ended", () => out.includes('"agent stopping"'));
  try {
    await waited;
    expect(await ended).toBe(true);
  } finally {
    if (launcher.stdout.readable) process.kill(agent, "SIGKILL");
  }
});
