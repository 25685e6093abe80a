// Compares the agent with the best that target, database and gRPC can do, measured in the same run
// on the same machine (docs/performance.md#what-things-cost).
//
//   npm run bench -- [--rows a,b] [--pairs 5] [--out FOLDER] [--quick] [--profile]
//                    [--target SOCKET --disks FILE [--restart-cmd CMD]]
//
// With --target a real SPDK target is measured; all data on the disks in FILE is destroyed.
import { mkdir, writeFile } from "node:fs/promises";
import { availableParallelism, cpus } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { startPostgres } from "../../src/demo/postgres.ts";
import { serverFolder } from "../support/server-folder.ts";
import type { RealTarget } from "../support/target.ts";
import { BenchNode } from "./bench-node.ts";
import { json, table } from "./report.ts";
import { cyclesRow } from "./row-cycles.ts";
import { getExportRow } from "./row-get-export.ts";
import { idleRow } from "./row-idle.ts";
import { oneVolumeRow } from "./row-one-volume.ts";
import { provisionRow } from "./row-provision.ts";
import { resizeRow } from "./row-resize.ts";
import { restartRow } from "./row-restart.ts";
import { scaleRow } from "./row-scale.ts";
import { cloneRow, snapshotRow } from "./row-snapshot.ts";
import { streamIostatRow } from "./row-stream-iostat.ts";
import { watchRow } from "./row-watch.ts";
import type { Bench, Row, RowResult, Sizes } from "./row.ts";

/** Processes that need their own core: database, target, agent and client. */
const PARTS = 4;

const ROWS: readonly Row[] = [
  provisionRow,
  oneVolumeRow,
  resizeRow,
  snapshotRow,
  cloneRow,
  restartRow,
  getExportRow,
  idleRow,
  streamIostatRow,
  scaleRow,
  watchRow,
  cyclesRow,
];

const FULL: Sizes = {
  volumes: 1_000,
  scale: [10, 100, 1_000, 5_000],
  burst: 100,
  warmUpVolumes: 300,
  sequential: 50,
  singles: 20,
  restartsPerScale: 3,
  idleSeconds: 60,
  watchers: 1_000,
  readSeconds: 3,
  cycles: 20_000,
};

const QUICK: Sizes = {
  volumes: 20,
  scale: [5, 20],
  burst: 5,
  warmUpVolumes: 5,
  sequential: 3,
  singles: 2,
  restartsPerScale: 1,
  idleSeconds: 1,
  watchers: 10,
  readSeconds: 0.2,
  cycles: 20,
};

const { values: options } = parseArgs({
  options: {
    rows: { type: "string", default: ROWS.map(({ name }) => name).join(",") },
    pairs: { type: "string" },
    out: { type: "string", default: "bench-results" },
    quick: { type: "boolean", default: false },
    profile: { type: "boolean", default: false },
    target: { type: "string" },
    disks: { type: "string" },
    "restart-cmd": { type: "string" },
  },
});

process.exitCode = await main();

async function main(): Promise<number> {
  const wanted = options.rows.split(",");
  const unknown = wanted.filter((name) => !ROWS.some((row) => row.name === name));
  if (unknown.length > 0) {
    say(`unknown rows: ${unknown.join(", ")}; known: ${ROWS.map(({ name }) => name).join(", ")}`);
    return 64;
  }
  if (options.target !== undefined && options.disks === undefined) {
    say("--target needs --disks FILE; all data on these disks is destroyed");
    return 64;
  }
  const machine = describeMachine();
  await mkdir(options.out, { recursive: true });
  const results = await run(ROWS.filter(({ name }) => wanted.includes(name)));
  say("");
  say(table(Object.values(results).flatMap(({ lines }) => lines)));
  for (const [name, { notes }] of Object.entries(results)) {
    for (const note of notes) say(`${name}: ${note}`);
  }
  const { quick, pairs = String(pairsOf()), target } = options;
  const measured = {
    quick,
    pairs: Number(pairs),
    target: target === undefined ? "simulated" : "real",
  };
  await writeFile(
    join(options.out, "bench.json"),
    json({ machine, options: measured, rows: results }),
  );
  for (const [name, { svg }] of Object.entries(results)) {
    if (svg !== undefined) await writeFile(join(options.out, `${name}.svg`), svg);
  }
  return Object.values(results).every(({ failed }) => failed === undefined) ? 0 : 1;
}

function describeMachine(): object {
  const cores = availableParallelism();
  const contended = cores < PARTS;
  say(`bench: ${cores} cores for ${PARTS} parts (database, target, agent, client)`);
  if (contended) {
    say("THE PARTS SHARE CORES: times are contended; compare ratios, and counts rather than times");
  }
  return { cores, parts: PARTS, contended, cpu: cpus()[0]?.model ?? "", node: process.version };
}

async function run(rows: readonly Row[]): Promise<Record<string, RowResult>> {
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(await serverFolder());
  const postgres = stack.use(await startPostgres({ stateDir: folder.path }));
  const profileDir = options.profile ? options.out : undefined;
  const nodes = new Set<BenchNode>();
  const bench: Bench = {
    sizes: options.quick ? QUICK : FULL,
    pairs: pairsOf(),
    warmUps: options.quick ? 0 : 1,
    canKill: options.target === undefined || options["restart-cmd"] !== undefined,
    say,
    startNode: async (nodeOptions) => {
      const parts = { postgres, realTarget: realTarget(), profileDir };
      const node = await BenchNode.start(parts, nodeOptions);
      nodes.add(node);
      return node;
    },
  };
  // Stop nodes that a failed row left running before the database.
  stack.defer(async () => {
    for (const node of nodes) await node[Symbol.asyncDispose]();
  });
  const stopped = new Promise<never>((_, reject) => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      process.once(signal, () => reject(new Error(`ended by ${signal}`)));
    }
  });
  const results: Record<string, RowResult> = {};
  for (const { name, run } of rows) {
    say(`${name} ...`);
    const startMs = performance.now();
    try {
      results[name] = await Promise.race([run(bench), stopped]);
    } catch (error) {
      const failed = error instanceof Error ? error.message : String(error);
      if (failed.startsWith("ended by ")) throw error;
      results[name] = { lines: [], notes: [`FAILED: ${failed}`], raw: {}, failed };
    }
    say(`${name}: ${((performance.now() - startMs) / 1_000).toFixed(0)} s`);
  }
  return results;
}

function pairsOf(): number {
  if (options.pairs !== undefined) return Number(options.pairs);
  return options.quick ? 1 : 5;
}

function realTarget(): RealTarget | undefined {
  const { target: socket, disks: fabricDisks, "restart-cmd": restartCommand } = options;
  if (socket === undefined || fabricDisks === undefined) return undefined;
  return { socket, fabricDisks, restartCommand };
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
