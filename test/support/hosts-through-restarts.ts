// Hosts that use one volume each while the target is killed again and again; in some rounds the
// agent is killed with it, its database is away, or its connection to the target is lost.
import type { HostCounters } from "../../src/sim/host/simulated-host.ts";
import { call } from "./agent.ts";
import { BusyHost } from "./busy-host.ts";
import { crashScenario, type CrashScenario } from "./crash-scenario.ts";
import { HOST, idOf, provision, WAIT } from "./volumes.ts";

const SIZE = 64n * 1024n ** 2n;
/** How many hosts are revoked while they are connected, and how many while the target is down. */
const REVOKED = 3;

export type HostsOptions = {
  readonly restarts: number;
  readonly hosts: number;
  /** Default: a database of the test run. */
  readonly databaseUrl?: string;
  readonly onRound?: (round: number) => void;
};

type User = {
  readonly id: string;
  readonly host: BusyHost;
};

export type ThroughRestarts = {
  /** Of the hosts that may use their volume all the time. */
  readonly hosts: readonly HostCounters[];
  /** I/O errors, lost devices, and what they read at the end other than they wrote it. */
  readonly harm: readonly string[];
  /** NQNs of subsystems to which a host connected after its RevokeHost was answered. */
  readonly letInAgain: readonly string[];
};

/** Resolves once every entitled host has written after each restart; the caller limits the time. */
export async function hostsThroughRestarts(options: HostsOptions): Promise<ThroughRestarts> {
  const { restarts, onRound = () => {} } = options;
  await using stack = new AsyncDisposableStack();
  const scenario = stack.use(await crashScenario({}, options));
  await (await scenario.start()).ready();
  const use = async () => stack.use(await user(scenario));
  const users = await Promise.all(Array.from({ length: options.hosts }, use));
  const leaving = await Promise.all(Array.from({ length: 2 * REVOKED }, use));
  const out = new Map<BusyHost, number>();
  for (let round = 0; round < restarts; round += 1) {
    onRound(round);
    const half = round === Math.floor(restarts / 2);
    if (half) await revoke(scenario, leaving.slice(0, REVOKED), out, WAIT);
    await restarted(scenario, round, async () => {
      if (half) await revoke(scenario, leaving.slice(REVOKED), out, undefined);
    });
    await Promise.all(users.map(({ host }) => host.writesAgain()));
  }
  const harm = await Promise.all(users.map(({ host }) => host.stop()));
  const again = [...out].filter(
    ([host, reconnects]) => host.connected || host.counters.reconnects !== reconnects,
  );
  return {
    hosts: users.map(({ host }) => host.counters),
    harm: harm.flat(),
    letInAgain: again.map(([{ nqn }]) => nqn),
  };
}

async function user({ agent, target }: CrashScenario): Promise<User & AsyncDisposable> {
  const lvol = await provision(agent(), { sizeBytes: SIZE });
  const nqn = lvol.status?.nqn ?? "";
  const host = await BusyHost.connect({ fabric: target.fabric, host: HOST, nqn });
  return { id: idOf(lvol), host, [Symbol.asyncDispose]: () => host[Symbol.asyncDispose]() };
}

/** Revokes the hosts; records how often each had connected again when the answer came. */
async function revoke(
  { agent }: CrashScenario,
  users: readonly User[],
  out: Map<BusyHost, number>,
  waitTimeout: typeof WAIT | undefined,
): Promise<void> {
  const { client } = agent();
  const one = async ({ id, host }: User) => {
    const request = { lvolId: id, hostNqn: HOST, waitTimeout };
    await call(client, client.revokeHost.bind(client), request);
    out.set(host, host.connected ? -1 : host.counters.reconnects);
  };
  await Promise.all(users.map(one));
}

/** Kills the target, and what else this round kills; `meanwhile` runs while it is down. */
async function restarted(
  scenario: CrashScenario,
  round: number,
  meanwhile: () => Promise<void>,
): Promise<void> {
  const { target } = scenario;
  for (const disk of target.state().disks) {
    disk.setLate({ attachMs: (round * 7) % 50, loadMs: (round * 13) % 100 });
  }
  const database = scenario.database();
  await target.kill();
  await meanwhile();
  const also = ALSO[round % ALSO.length];
  if (also === "agent") await scenario.killAgent();
  if (also === "database") await database.down();
  await target.restart();
  if (also === "agent") await scenario.start();
  if (also === "database") await database.up();
  if (also === "connection") scenario.loseConnection();
}

const ALSO = [undefined, "connection", undefined, "agent", undefined, "database"] as const;
