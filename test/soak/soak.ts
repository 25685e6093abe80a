// Soak test of a storage node: PostgreSQL, a simulated target and the agent run as processes,
// volumes change all the time, and every second one of the three is killed with SIGKILL. At the end
// the answers to callers, the rows and the objects on the target must agree. Then 50 hosts use their
// volumes while the target is killed 1,000 times; none may lose its device or see an error.
//
//   node bin/node24.js test/soak/soak.ts [--seconds 300] [--volumes 200] [--seed N] [--restarts 1000]
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { fileURLToPath } from "node:url";
import { freeAddress } from "../../src/demo/listen-address.ts";
import { startPostgres, type Postgres } from "../../src/demo/postgres.ts";
import { superviseProcess, type SupervisedProcess } from "../../src/demo/processes.ts";
import { spdkClient } from "../../src/spdk/client.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import type { HostCounters } from "../../src/sim/host/simulated-host.ts";
import { hostsThroughRestarts } from "../support/hosts-through-restarts.ts";
import { migratedDatabase } from "../support/migrated-database.ts";
import { serverFolder } from "../support/server-folder.ts";
import { differences } from "./differences.ts";
import { agentEnv } from "../support/agent.ts";
import { Scheduler } from "./scheduler.ts";

const MAIN = fileURLToPath(new URL("../../src/main.ts", import.meta.url));
const HOSTS = 50;
const DISKS = 2;
const DISK_BYTES = 256n * 1024n ** 3n;
const KILL_EVERY_MS = 1_000;
const RESTART_MS = 300;
const REST_LIMIT_MS = 120_000;
const VICTIMS = ["agent", "target", "database"] as const;
type Victim = (typeof VICTIMS)[number];

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "300" },
    volumes: { type: "string", default: "200" },
    seed: { type: "string", default: String(Date.now() % 100_000) },
    restarts: { type: "string", default: "1000" },
  },
});
const options = {
  seconds: Number(values.seconds),
  volumes: Number(values.volumes),
  seed: Number(values.seed),
};
const good = (await soak(options)) && (await soakHosts(Number(values.restarts)));
process.exitCode = good ? 0 : 1;

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

type Soak = { readonly seconds: number; readonly volumes: number; readonly seed: number };

async function soak({ seconds, volumes, seed }: Soak): Promise<boolean> {
  say(`soak: ${volumes} volumes for ${seconds} s, a kill -9 each second, --seed ${seed}`);
  await using node = await startParts();
  const random = generator(seed);
  const scheduler = new Scheduler({ address: node.address, volumes, random });
  const ending = new AbortController();
  const working = scheduler.work(ending.signal);
  // An unexpected answer ends the test immediately.
  working.catch(() => ending.abort());
  const kills = await killOneEachSecond(
    node,
    { seconds, random, signal: ending.signal },
    scheduler,
  );
  ending.abort();
  const stopped = performance.now();
  // The last calls are repeated until they are answered.
  await Promise.race([working, late("the last calls are answered")]);
  const found = await atRest(node, scheduler);
  const restMs = Math.round(performance.now() - stopped);
  const figures = {
    kills,
    calls: scheduler.counts,
    "volumes at the end": scheduler.volumes().length,
    "volumes deleted": scheduler.deleted,
    "s to rest after the last kill": restMs / 1_000,
    "aborts of the target": node.aborts(),
    "longest call until its answer, s": Math.round(scheduler.longestMs) / 1_000,
  };
  say(JSON.stringify(figures, undefined, 2));
  for (const line of found) say(`DIFFERS ${line}`);
  const good = found.length === 0 && node.aborts() === 0;
  say(good ? "rows, target and answers agree" : "FAILED");
  return good;
}

async function soakHosts(restarts: number): Promise<boolean> {
  say(`soak: ${HOSTS} hosts through ${restarts} restarts of the target`);
  await using folder = await serverFolder();
  await using postgres = await startPostgres({ stateDir: folder.path });
  const databaseUrl = await migratedDatabase(postgres, "hosts");
  const onRound = (round: number) => {
    if (round > 0 && round % 100 === 0) say(`${round} restarts`);
  };
  const { hosts, harm, letInAgain } = await hostsThroughRestarts({
    restarts,
    hosts: HOSTS,
    databaseUrl,
    onRound,
  });
  const sum = (of: (one: HostCounters) => number) => hosts.reduce((all, one) => all + of(one), 0);
  const figures = {
    reconnects: sum(({ reconnects }) => reconnects),
    "reads, writes and discards": sum(({ reads, writes, discards }) => reads + writes + discards),
    "longest gap, ms": Math.max(...hosts.map(({ longestGapMs }) => longestGapMs)),
  };
  say(JSON.stringify(figures, undefined, 2));
  for (const line of harm) say(`HARMED ${line}`);
  for (const nqn of letInAgain) say(`REVOKED BUT LET IN ${nqn}`);
  const good = harm.length === 0 && letInAgain.length === 0;
  say(good ? "no host saw more than a pause" : "FAILED");
  return good;
}

type Parts = AsyncDisposable & {
  readonly address: string;
  readonly socket: string;
  readonly url: string;
  /** False: the process is not running. */
  readonly kill: (victim: Victim) => boolean;
  readonly aborts: () => number;
};

async function startParts(): Promise<Parts> {
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(await serverFolder());
  const stateDir = join(folder.path, "soak");
  await mkdir(stateDir);
  const socket = join(stateDir, "spdk.sock");
  const postgres = await startPostgres({ stateDir: folder.path });
  const keeping = new AbortController();
  stack.defer(async () => {
    keeping.abort();
    await postgres[Symbol.asyncDispose]();
  });
  const url = await migratedDatabase(postgres, "soak");
  const address = await freeAddress("127.0.0.1:0");
  let aborts = 0;
  const report = (sentence: string) => {
    if (!sentence.includes("ABORTED")) return;
    aborts += 1;
    say(sentence);
  };
  const common = { stateDir, report, restartDelayMs: RESTART_MS };
  const { disks, fabric } = await diskFiles(stateDir);
  const state = join(stateDir, "target");
  const simArgs = ["--socket", socket, "--disks", disks, "--state", state, "--strict"];
  const target = stack.use(
    await superviseProcess({
      ...common,
      name: "target",
      args: [MAIN, "sim", ...simArgs],
      env: process.env,
    }),
  );
  const agent = stack.use(
    await superviseProcess({
      ...common,
      name: "agent",
      args: [MAIN, "serve"],
      env: {
        ...process.env,
        ...agentEnv({
          url,
          target: { socket, fabricDisks: fabric },
          root: join(stateDir, "root"),
          stateDir: join(stateDir, "agent-state"),
        }),
        STORAGE_NODE_LISTEN: address,
        LOG_LEVEL: "warn",
      },
    }),
  );
  const kept = keepRunning(postgres, keeping.signal);
  stack.defer(async () => {
    keeping.abort();
    await kept;
  });
  const owned = stack.move();
  let databaseRuns = true;
  return {
    address,
    socket,
    url,
    aborts: () => aborts,
    kill: (victim) => {
      if (victim !== "database") return killed(victim === "agent" ? agent : target);
      if (!databaseRuns) return false;
      databaseRuns = false;
      postgres.kill9();
      void postgres.ended().then(() => (databaseRuns = true));
      return true;
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function killed({ pid }: SupervisedProcess): boolean {
  if (pid === undefined) return false;
  process.kill(pid, "SIGKILL");
  return true;
}

async function keepRunning(postgres: Postgres, signal: AbortSignal): Promise<void> {
  try {
    for (;;) {
      await postgres.ended({ signal });
      await sleep(RESTART_MS, undefined, { signal });
      await postgres.restart({ signal });
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

async function diskFiles(folder: string): Promise<{ disks: string; fabric: string }> {
  const facts = Array.from({ length: DISKS }, (_, index) => ({
    serial: `SOAK${index}`,
    trtype: "TCP",
    traddr: "127.0.0.1",
    trsvcid: `${9_000 + index}`,
    subnqn: `nqn.2026-11.io.test:soak${index}`,
  }));
  const [disks, fabric] = [join(folder, "disks.json"), join(folder, "fabric.json")];
  const model = { model: "SIMULATED", block_size: 4096, num_blocks: Number(DISK_BYTES / 4096n) };
  await writeFile(disks, JSON.stringify(facts.map((one) => ({ ...one, ...model }))));
  await writeFile(fabric, JSON.stringify(facts.map((one) => ({ ...one, format: true }))));
  return { disks, fabric };
}

/** Returns the number of kills of each process. */
async function killOneEachSecond(
  node: Parts,
  options: {
    readonly seconds: number;
    readonly random: () => number;
    readonly signal: AbortSignal;
  },
  scheduler: Scheduler,
): Promise<Record<Victim, number>> {
  const { seconds, random, signal } = options;
  const kills = { agent: 0, target: 0, database: 0 };
  const end = performance.now() + seconds * 1_000;
  for (let next = performance.now(); next < end && !signal.aborted; next += KILL_EVERY_MS) {
    await sleep(Math.max(next - performance.now(), 0));
    const first = Math.floor(random() * VICTIMS.length);
    const turn = VICTIMS.map((_, index) => VICTIMS[(first + index) % VICTIMS.length] ?? "agent");
    // Skip a process that is not running again yet.
    const victim = turn.find((one) => node.kill(one));
    if (victim !== undefined) kills[victim] += 1;
    const total = kills.agent + kills.target + kills.database;
    if (total % 20 === 0) say(`${total} kills, ${JSON.stringify(scheduler.counts)}`);
  }
  return kills;
}

/** Waits until there is no difference; returns the remaining ones after the time limit. */
async function atRest(node: Parts, scheduler: Scheduler): Promise<readonly string[]> {
  const connection = new SpdkConnection({ path: node.socket, mayMutate: () => false });
  const end = performance.now() + REST_LIMIT_MS;
  try {
    for (;;) {
      const found = await differences({
        spdk: spdkClient(connection),
        databaseUrl: node.url,
        wanted: scheduler.volumes(),
      }).catch((error: unknown) => [String(error)]);
      if (found.length === 0 || performance.now() > end) return found;
      await sleep(200);
    }
  } finally {
    await connection[Symbol.asyncDispose]();
  }
}

async function late(what: string): Promise<never> {
  await sleep(REST_LIMIT_MS, undefined, { ref: false });
  throw new Error(`not within ${REST_LIMIT_MS} ms: ${what}`);
}

/** Mulberry32 generator: kills and calls repeat for the same seed, except for timing. */
function generator(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
