// A node whose agent, target or both can be killed at any moment. Everything runs in this process,
// so that hundreds of scenarios are cheap. A kill of the agent cuts its connections to the target
// and the database: for both this is the same as a kill -9.
import { join } from "node:path";
import { inspect } from "node:util";
import type { DiskRow } from "../../src/model/disk.ts";
import type { LvolRow } from "../../src/model/lvol.ts";
import { startAgent, until, type TestAgent } from "./agent.ts";
import { query, recycledDatabase } from "./database.ts";
import { DatabaseProxy } from "./database-proxy.ts";
import {
  inProcessTarget,
  type InProcessOptions,
  type InProcessTarget,
} from "./in-process-target.ts";
import { deaf, SocketProxy, type Overhear } from "./socket-proxy.ts";
import type { Timing } from "../../src/node.ts";
import { readLvol, writeLvol } from "../../src/sim/target/clusters.ts";
import { temporaryFolder } from "./temporary-folder.ts";

export type CrashScenario = AsyncDisposable & {
  readonly target: InProcessTarget;
  /** Of every agent of this scenario. */
  readonly stateDir: string;
  /** Starts an agent; the previous one must have been killed. */
  readonly start: (how?: StartOptions) => Promise<TestAgent>;
  /** The database proxy of the current agent. */
  readonly database: () => DatabaseProxy;
  readonly killAgent: () => Promise<void>;
  /** Closes the connection to the target: requests sent before still execute, answers are lost. */
  readonly loseConnection: () => void;
  /**
   * Freezes the agent until its lease expires, and starts a second one with another lock file that
   * takes over. Returns a function that resumes the first one, which ends with the next kill.
   */
  readonly takeOver: () => Promise<() => void>;
  /** Kills agents that takeOver froze, resumed or not. */
  readonly killStopped: () => Promise<void>;
  readonly agent: () => TestAgent;
  /** Runs a statement without the agent knowing of it. */
  readonly query: (statement: string) => Promise<readonly unknown[]>;
};

type StartOptions = {
  /** The database is away until `database().up()`. */
  readonly databaseAway?: boolean;
  /** Settings of this agent, over those of the scenario. */
  readonly env?: Readonly<Record<string, string>>;
};

type Running = {
  readonly agent: TestAgent;
  readonly spdk: SocketProxy;
  readonly db: DatabaseProxy;
};

export type CrashOptions = {
  readonly env?: Readonly<Record<string, string>>;
  /** Hears what the agent asks the target. */
  readonly overhear?: Overhear | undefined;
  /** Default: a database of the test run. */
  readonly databaseUrl?: string;
  readonly target?: InProcessOptions | undefined;
};

export async function crashScenario(
  timing: Partial<Timing> = {},
  { env = {}, overhear = deaf, databaseUrl, target: how }: CrashOptions = {},
): Promise<CrashScenario> {
  const stack = new AsyncDisposableStack();
  const url = databaseUrl ?? stack.use(await recycledDatabase()).url;
  const target = stack.use(await inProcessTarget(how));
  const folder = stack.use(await temporaryFolder());
  const stateDir = join(folder.path, "state");
  let running: Running | undefined;
  const stopped = new Set<Running>();
  let count = 0;
  const killStopped = async () => {
    const killed = [...stopped];
    stopped.clear();
    await Promise.all(killed.map(kill));
  };
  const killAgent = async () => {
    const killed = running;
    running = undefined;
    await Promise.all([killStopped(), killed === undefined ? undefined : kill(killed)]);
  };
  stack.defer(killAgent);
  const current = () => {
    if (running === undefined) throw new Error("no agent is running");
    return running;
  };
  const start = async (
    lockPath: string,
    { databaseAway = false, env: own = {} }: StartOptions = {},
  ) => {
    // Each agent has its own proxy socket; they share one lock file, next to the socket of the
    // target.
    const path = join(folder.path, `agent${(count += 1)}`);
    const spdk = await SocketProxy.open(path, target.socket, overhear);
    const db = await DatabaseProxy.open(url);
    if (databaseAway) await db.down();
    const agent = await startAgent(
      {
        url: db.url,
        target: { socket: path, fabricDisks: target.fabricDisks },
        timing: { graceMs: 200, stopMs: 20, ...timing },
      },
      { STORAGE_NODE_STATE_DIR: stateDir, ...env, ...own },
      { lockPath },
    );
    running = { agent, spdk, db };
    return agent;
  };
  return {
    target,
    stateDir,
    killAgent,
    killStopped,
    agent: () => current().agent,
    query: (statement) => query(url, statement),
    database: () => current().db,
    loseConnection: () => current().spdk.drop(),
    takeOver: async () => {
      const first = current();
      // A previously frozen agent that was resumed could acquire the lease before the second one.
      await killStopped();
      stopped.add(first);
      first.spdk.freeze();
      first.db.freeze();
      const second = await start(join(folder.path, `lock${count}`));
      await second.ready();
      return () => {
        first.db.thaw();
        first.spdk.thaw();
      };
    },
    start: (how) => start(target.socket, how),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

async function kill({ agent, spdk, db }: Running) {
  spdk.cut();
  await db.down();
  await agent[Symbol.asyncDispose]();
  await spdk[Symbol.asyncDispose]();
}

const WRITTEN = 4_096;

/** Writes bytes to a volume as a host would. False: the target does not have the lvol. */
export function tag(
  { target }: Pick<CrashScenario, "target">,
  lvolUuid: string,
  byte: number,
  length = WRITTEN,
): boolean {
  const lvol = target.state().lvol(lvolUuid);
  if (lvol === undefined) return false;
  writeLvol(lvol, 0, Buffer.alloc(length, byte));
  // An answered write is on the disk.
  target.state().flush();
  return true;
}

/**
 * Reads a volume as a host would: the distinct bytes in the part written by `tag`, and in the rest
 * of that cluster, which was not written since the volume was created.
 */
export function readBack({ target }: Pick<CrashScenario, "target">, lvolUuid: string) {
  const lvol = target.state().lvol(lvolUuid);
  if (lvol === undefined) return undefined;
  const rest = lvol.store.store.clusterBytes - WRITTEN;
  return {
    written: distinct(readLvol(lvol, 0, WRITTEN)),
    rest: distinct(readLvol(lvol, WRITTEN, rest)),
  };
}

/** The distinct bytes; of megabytes, which are mostly the same, at once. */
function distinct(bytes: Buffer): readonly number[] {
  const [first] = bytes;
  if (first === undefined) return [];
  return bytes.equals(Buffer.alloc(bytes.length, first)) ? [first] : [...new Set(bytes)];
}

/** Objects on the target that an agent may have created; `crossed`: namespaces on a wrong lvol. */
export function onTarget({ target }: CrashScenario) {
  const state = target.state();
  const lvols = [...state.stores.values()].flatMap(({ lvols }) => [...lvols.values()]);
  const exported = [...state.subsystems.values()].flatMap(({ nqn, namespaces }) =>
    [...namespaces.values()].map(({ uuid, bdev }) => ({ nqn, uuid, bdev: bdev.uuid })),
  );
  const empty = [...state.subsystems.values()].filter(
    ({ nqn, namespaces }) => namespaces.size === 0 && !nqn.includes(":owner:"),
  );
  return {
    lvols: lvols.map(({ blob }) => blob.name).toSorted(),
    exported: exported.map(({ uuid }) => uuid).toSorted(),
    empty: empty.map(({ nqn }) => nqn),
    crossed: exported.filter(
      ({ uuid, bdev }) => lvols.find((lvol) => lvol.uuid === bdev)?.blob.name !== uuid,
    ),
  };
}

/** The expected result of onTarget: each volume once with its own export, and nothing else. */
export function exactly(ids: readonly string[]) {
  const sorted = ids.toSorted();
  return { lvols: sorted, exported: sorted, empty: [], crossed: [] };
}

/**
 * Waits until rows and target agree: each wanted volume exported with the lvol uuid of its row, and nothing is
 * zeroed any more, or about to be.
 */
export async function settled(scenario: CrashScenario): Promise<void> {
  const { agent } = scenario.agent().node;
  const isSettled = (row: LvolRow) => {
    const { observed } = agent.view(row);
    if (row.deleteRequestedTime !== undefined) return row.deleteTime !== undefined;
    const lvol = observed.lvol;
    return lvol?.kind === "present" && lvol.uuid === row.lvolUuid && row.exported;
  };
  const all = () => [...agent.rows.lvols()];
  const isZeroed = (row: DiskRow) => {
    const { zeroesByItself = false, discardsFree = false } = agent.diskReadiness(row);
    return row.freeSpace === "ZEROED" || discardsFree || !zeroesByItself;
  };
  const isDone = () => all().every(isSettled) && [...agent.rows.disks()].every(isZeroed);
  await until("rows and target agree", isDone).catch((cause: unknown) => {
    const unsettled = all().filter((row) => !isSettled(row));
    const details = unsettled.map((row) =>
      inspect({ row, observed: agent.view(row).observed }, { depth: 4 }),
    );
    const parts = agent.components().map(({ name, reason }) => `${name}: ${reason}`);
    throw new Error([...parts, ...details].join("; "), { cause });
  });
}
