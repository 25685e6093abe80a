// The agent, the target or both are killed at every request that the target reads and at every
// commit of a history with three volumes, one of which a host uses all the time. A run without a kill
// counts the points; after each kill the same calls are repeated, and the result must equal that of
// the run without a kill. The host must not have noticed more than a pause.
import { uuidV5 } from "../../src/model/identity.ts";
import { describe, expect, it } from "vitest";
import type { StopAt } from "../../src/sim/target/gate.ts";
import type { TestAgent } from "../support/agent.ts";
import { BusyHost } from "../support/busy-host.ts";
import {
  crashScenario,
  exactly,
  onTarget,
  readBack,
  settled,
  tag,
  type CrashScenario,
} from "../support/crash-scenario.ts";
import type { Overhear } from "../support/socket-proxy.ts";
import { OverheardRequests } from "../support/overheard-requests.ts";
import { HOST, idOf, provision, remove } from "../support/volumes.ts";

const NAMESPACE = "5a3c9c52-6c7e-4a53-9f0e-2f6a3c1d4e5f";
const [KEPT = "", ...GONE] = ["kept", "gone", "gone too"].map((name) => uuidV5(NAMESPACE, name));
const byteOf = (id: string) => [KEPT, ...GONE].indexOf(id) + 1;
const SMALL = { sizeBytes: 64n * 1024n * 1024n };

type Setup = AsyncDisposable & {
  readonly scenario: CrashScenario;
  /** The host of the kept volume, which connects when first asked for. */
  readonly host: (nqn: string) => Promise<BusyHost>;
};

async function setUp(overhear?: Overhear): Promise<Setup> {
  const stack = new AsyncDisposableStack();
  const scenario = stack.use(await crashScenario({}, { overhear }));
  const { fabric } = scenario.target;
  let host: Promise<BusyHost> | undefined;
  return {
    scenario,
    host: (nqn) => (host ??= BusyHost.connect({ fabric, host: HOST, nqn })),
    [Symbol.asyncDispose]: async () => {
      await (await host)?.[Symbol.asyncDispose]();
      await stack.disposeAsync();
    },
  };
}

/**
 * Creates three volumes on a new store, writes into them, and deletes two while a host uses the
 * third. Idempotent.
 */
async function history({ scenario, host }: Setup, agent: TestAgent): Promise<void> {
  await agent.ready();
  const retired = (id: string) => agent.node.agent.rows.lvol(id)?.deleteRequestedTime !== undefined;
  const wanted = [KEPT, ...GONE].filter((id) => !retired(id));
  const made = await Promise.all(wanted.map((id) => provision(agent, SMALL, { id })));
  for (const lvol of made) tag(scenario, lvol.status?.lvolUuid ?? "", byteOf(idOf(lvol)));
  const kept = made.find((lvol) => idOf(lvol) === KEPT);
  await (await host(kept?.status?.nqn ?? "")).writesAgain();
  await Promise.all(GONE.map((id) => remove(agent, id)));
}

/** The requests of the history without a kill, and its number of commits. */
async function counted(): Promise<{
  readonly methods: readonly string[];
  readonly commits: number;
}> {
  const heard = new OverheardRequests();
  await using setup = await setUp(heard.overhear);
  const { scenario } = setup;
  await history(setup, await scenario.start());
  return {
    methods: heard.take().map(({ method }) => method),
    commits: scenario.database().commits,
  };
}

/** Before each request, and after each change: a read has no effect that could be lost. */
function pointsOf(methods: readonly string[]): readonly StopAt[] {
  return methods.flatMap((method, index) => {
    const before = { when: "before", nth: index + 1 } as const;
    return /_get_/.test(method) ? [before] : [before, { ...before, when: "after" } as const];
  });
}

type Victim = "agent" | "target" | "agent and target";

/** Kills the victim at a point, restarts it, and repeats the history. */
async function killedAt(setup: Setup, victim: Victim, stopped: Promise<unknown>, agent: TestAgent) {
  const { scenario, host } = setup;
  const first = history(setup, agent).catch(() => {});
  await Promise.race([stopped, first]);
  // The number of reads varies: a stop that was not reached must not stop the next agent.
  scenario.target.engine().gate.onStopped = () => setImmediate(() => scenario.target.resume());
  if (victim !== "agent") await scenario.target.restart();
  if (victim !== "target") {
    const killing = scenario.killAgent();
    scenario.target.resume();
    await killing;
  }
  const next = victim === "target" ? agent : await scenario.start();
  // Calls to a killed agent are never answered.
  if (victim === "target") await first;
  await history(setup, next);
  await settled(scenario);
  // Neither data of the deleted volumes nor old bytes of the disk are readable in the kept one.
  const { lvolUuid = "", nqn = "" } = next.node.agent.rows.lvol(KEPT) ?? {};
  expect(readBack(scenario, lvolUuid)).toEqual({ written: [byteOf(KEPT)], rest: [0] });
  expect(await (await host(nqn)).stop()).toEqual([]);
}

async function atRequest(victim: Victim, at: StopAt): Promise<void> {
  await using setup = await setUp();
  const { scenario } = setup;
  const agent = await scenario.start();
  const { gate } = scenario.target.engine();
  const stopped = new Promise((resolve) => (gate.onStopped = resolve));
  gate.stopAt(at);
  await Promise.race([killedAt(setup, victim, stopped, agent), scenario.target.aborted]);
  expect(onTarget(scenario), `${victim} at request ${at.nth}, ${at.when} it`).toEqual(
    exactly([KEPT]),
  );
}

async function atCommit(when: "before" | "after", nth: number): Promise<void> {
  await using setup = await setUp();
  const { scenario } = setup;
  const agent = await scenario.start();
  const stopped = scenario.database().stopAt({ when, nth });
  await Promise.race([killedAt(setup, "agent", stopped, agent), scenario.target.aborted]);
  expect(onTarget(scenario), `commit ${nth}, ${when} it`).toEqual(exactly([KEPT]));
}

/** Runs six scenarios at a time: each waits most of the time. */
async function each<T>(items: readonly T[], act: (item: T) => Promise<void>): Promise<void> {
  const remaining = items.values();
  const worker = async () => {
    for (const item of remaining) await act(item);
  };
  await Promise.all(Array.from({ length: 6 }, worker));
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index + 1);

describe.concurrent("a kill at any point", () => {
  it.each(["agent", "target", "agent and target"] as const)(
    "of the %s, before each request and after each change, loses no volume and leaves no object",
    async (victim) => {
      const { methods } = await counted();
      const points = pointsOf(methods);
      expect(points.filter(({ when }) => when === "after").length).toBeGreaterThan(20);
      await each(points, (at) => atRequest(victim, at));
    },
    240_000,
  );

  it("of the agent, before and after each commit, loses no volume and leaves no object", async () => {
    const { commits } = await counted();
    expect(commits).toBeGreaterThan(5);
    const points = upTo(commits).flatMap((nth) =>
      (["before", "after"] as const).map((when) => ({ when, nth })),
    );
    await each(points, ({ when, nth }) => atCommit(when, nth));
  }, 240_000);
});
