// Compares the outputs in docs/troubleshooting.md with what the commands print, ignoring ids,
// times, addresses and numbers.
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { WAIT_REASONS } from "../../src/model/wait.ts";
import { startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { storageNode } from "../support/explain.ts";
import { REAL_SOCKET, startTarget } from "../support/target.ts";
import { GIB, getLvol, idOf, provision } from "../support/volumes.ts";

const text = await readFile(
  fileURLToPath(new URL("../../docs/troubleshooting.md", import.meta.url)),
  "utf8",
);

const stack = new AsyncDisposableStack();
let agent: TestAgent;
let volume: string;

beforeAll(async () => {
  const database = stack.use(await testDatabase());
  const target = stack.use(await startTarget({ disks: 1, diskBytes: 4n * GIB }));
  agent = stack.use(await startAgent({ url: database.url, target, timing: { healthMs: 500 } }));
  await agent.ready();
  await until("the disk was looked at", () =>
    [...agent.node.agent.rows.disks()].every(({ healthTime }) => healthTime !== undefined),
  );
  volume = idOf(await provision(agent, { allowedHostNqns: [] }));
  // A foreign lvol takes the clusters that a thick volume needs.
  const [disk] = [...agent.node.agent.rows.disks()];
  const { freeClusters = 0n, clusterBytes = 0n, lvsUuid = "" } = disk ?? {};
  await target.spdk.bdevLvolCreate({
    lvsUuid,
    lvolName: "foreign-lvol",
    sizeBytes: (freeClusters - 2n) * clusterBytes,
    thin: false,
    clearMethod: "write_zeroes",
  });
  const thick = { provisioning: "PROVISIONING_THICK", sizeBytes: GIB } as const;
  const failing = idOf(await provision(agent, thick, { wait: false }));
  await until("the thick volume fails", async () => {
    return (await getLvol(agent, failing)).status?.lastError !== "";
  });
  await until("the agent knows what the foreign lvol holds", () => {
    const [row] = [...agent.node.agent.rows.disks()];
    const level = row && agent.node.agent.diskReadiness(row).space?.level;
    return level === "CRITICAL" && agent.node.agent.orphans.known().length > 0;
  });
});

afterAll(async () => {
  await stack.disposeAsync();
});

function shown(command: string): string {
  const start = text.indexOf(`    $ ${command}\n`);
  const lines = text.slice(start).split("\n").slice(1);
  const end = lines.findIndex((line) => line !== "" && !line.startsWith("    "));
  return lines.slice(0, end).join("\n");
}

/**
 * Replaces values that differ between runs by placeholders, and all white space by single blanks.
 */
function shape(output: string): string {
  return output
    .replaceAll(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, "UUID")
    .replaceAll(/\b[0-9a-f]{20}\b/g, "SERIAL")
    .replaceAll(/ +next in \d+ \w+/g, "")
    .replaceAll(/\((wake|period|start)\)/g, "(WHY)")
    .replaceAll(/\b\d+ (s|min)\b/g, "TIME")
    .replaceAll(/\d+(\.\d+)?/g, "N")
    .replaceAll(/\s+/g, " ")
    .trim();
}

it.skipIf(REAL_SOCKET !== undefined).each([
  ["storage-node explain volume", () => ["explain", "volume", volume]],
  ["storage-node status", () => ["status"]],
])("%s prints what docs/troubleshooting.md shows", async (command, args) => {
  const { out } = await storageNode([...args(), "--address", agent.address]);
  const [line = ""] = text.match(new RegExp(`^    \\$ (${command}.*)$`, "m"))?.slice(1) ?? [];
  expect(shape(shown(line))).toBe(shape(out));
});

it("names every reason that something may wait for", () => {
  expect(WAIT_REASONS.filter((reason) => !text.includes(`\`${reason}\``))).toEqual([]);
});
