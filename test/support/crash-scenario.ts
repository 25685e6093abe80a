// A node that can lose its agent, its target or both at any moment. Everything runs in this process, so
// that hundreds of such worlds are cheap; an agent that is killed is cut off from the target and from
// the database, which is all that either sees of a kill -9.
import { join } from "node:path";
import { inspect } from "node:util";
import type { LvolRow } from "../../src/model/lvol.ts";
import { startAgent, until, type TestAgent } from "./agent.ts";
import { recycledDatabase } from "./database.ts";
import { DatabaseProxy } from "./database-proxy.ts";
import { inProcessTarget, type InProcessTarget } from "./in-process-target.ts";
import { deaf, SocketProxy, type Overhear } from "./socket-proxy.ts";
import type { Timing } from "../../src/node.ts";
import { readLvol, writeLvol } from "../../src/sim/target/clusters.ts";
import { temporaryFolder } from "./temporary-folder.ts";

export type CrashScenario = AsyncDisposable & {
  readonly target: InProcessTarget;
  /** Starts an agent; the one before must have been killed. */
  readonly start: () => Promise<TestAgent>;
  /** The proxy in front of the present agent's database. */
  readonly database: () => DatabaseProxy;
  readonly killAgent: () => Promise<void>;
  /** Ends its connection to a target that lives on: what was sent goes on, its answers are lost. */
  readonly loseConnection: () => void;
  /**
   * Stops it beyond its lease and has another one take over by another lock; resolves with what lets
   * the first one go on. It ends with the next kill.
   */
  readonly takeOver: () => Promise<() => void>;
  /** Ends those that were stopped, whether they go on again or not. */
  readonly killStopped: () => Promise<void>;
  readonly agent: () => TestAgent;
};

type Running = {
  readonly agent: TestAgent;
  readonly spdk: SocketProxy;
  readonly db: DatabaseProxy;
};

export async function crashScenario(
  timing: Partial<Timing> = {},
  env: Readonly<Record<string, string>> = {},
  overhear: Overhear = deaf,
): Promise<CrashScenario> {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await recycledDatabase());
  const target = stack.use(await inProcessTarget());
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
  const present = () => {
    if (running === undefined) throw new Error("no agent runs");
    return running;
  };
  const start = async (lockPath: string) => {
    // Each agent has a path of its own, but one lock: it lies beside the socket behind them all.
    const path = join(folder.path, `agent${(count += 1)}`);
    const spdk = await SocketProxy.open(path, target.socket, overhear);
    const db = await DatabaseProxy.open(database.url);
    const agent = await startAgent(
      {
        url: db.url,
        target: { socket: path, fabricDisks: target.fabricDisks },
        timing: { graceMs: 200, stopMs: 20, ...timing },
      },
      { STORAGE_NODE_STATE_DIR: stateDir, ...env },
      { lockPath },
    );
    running = { agent, spdk, db };
    return agent;
  };
  return {
    target,
    killAgent,
    killStopped,
    agent: () => present().agent,
    database: () => present().db,
    loseConnection: () => present().spdk.drop(),
    takeOver: async () => {
      const first = present();
      // Whoever goes on after an earlier stall would lead in the place of the second.
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
    start: () => start(target.socket),
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

/** A host writes into a volume; false while the target does not hold it. */
export function tag(
  { target }: CrashScenario,
  lvolUuid: string,
  byte: number,
  length = WRITTEN,
): boolean {
  const lvol = target.state().lvol(lvolUuid);
  if (lvol === undefined) return false;
  writeLvol(lvol, 0, Buffer.alloc(length, byte));
  // What a host was answered is on the disk.
  target.state().flush();
  return true;
}

/**
 * What a host reads there: where it wrote, and in the rest of that cluster, which nobody wrote since
 * the volume was made. Each byte once.
 */
export function readBack({ target }: CrashScenario, lvolUuid: string) {
  const lvol = target.state().lvol(lvolUuid);
  if (lvol === undefined) return undefined;
  const rest = lvol.store.store.clusterBytes - WRITTEN;
  return {
    written: [...new Set(readLvol(lvol, 0, WRITTEN))],
    rest: [...new Set(readLvol(lvol, WRITTEN, rest))],
  };
}

/** What the target holds that an agent of ours may have made. */
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

/** What it should hold for these volumes: each once, exported as itself, and nothing else. */
export function exactly(ids: readonly string[]) {
  const sorted = ids.toSorted();
  return { lvols: sorted, exported: sorted, empty: [], crossed: [] };
}

/** Rows and target agree: each wanted volume UP with the uuid that its row has. */
export async function settled(scenario: CrashScenario): Promise<void> {
  const { agent } = scenario.agent().node;
  const isSettled = (row: LvolRow) => {
    const { observed } = agent.view(row);
    if (row.deleteRequestedTime !== undefined) return row.deleteTime !== undefined;
    const lvol = observed.lvol;
    return lvol?.kind === "present" && lvol.uuid === row.lvolUuid && row.exported;
  };
  const all = () => [...agent.rows.lvols()];
  await until("rows and target agree", () => all().every(isSettled)).catch((cause: unknown) => {
    const open = all().filter((row) => !isSettled(row));
    const said = open.map((row) =>
      inspect({ row, observed: agent.view(row).observed }, { depth: 4 }),
    );
    const parts = agent.components().map(({ name, reason }) => `${name}: ${reason}`);
    throw new Error([...parts, ...said].join("; "), { cause });
  });
}
