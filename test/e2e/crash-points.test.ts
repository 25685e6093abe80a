// The agent, the target or both are killed at every request that the target reads and at every
// commit of a history with three volumes. A run without a kill counts the points; after each kill
// the same calls are repeated, and the result must equal that of the run without a kill.
import { uuidV5 } from "../../src/model/identity.ts";
import { describe, expect, it } from "vitest";
import type { StopAt } from "../../src/sim/target/gate.ts";
import type { TestAgent } from "../support/agent.ts";
import {
  crashScenario,
  exactly,
  onTarget,
  readBack,
  settled,
  tag,
  type CrashScenario,
} from "../support/crash-scenario.ts";
import { OverheardRequests } from "../support/overheard-requests.ts";
import { idOf, provision, remove } from "../support/volumes.ts";

const NAMESPACE = "5a3c9c52-6c7e-4a53-9f0e-2f6a3c1d4e5f";
const [KEPT = "", ...GONE] = ["kept", "gone", "gone too"].map((name) => uuidV5(NAMESPACE, name));
const byteOf = (id: string) => [KEPT, ...GONE].indexOf(id) + 1;
const SMALL = { sizeBytes: 64n * 1024n * 1024n };

/** Creates three volumes on a new store, writes into them, and deletes two. Idempotent. */
async function history(scenario: CrashScenario, agent: TestAgent): Promise<void> {
  await agent.ready();
  const retired = (id: string) => agent.node.agent.rows.lvol(id)?.deleteRequestedTime !== undefined;
  const wanted = [KEPT, ...GONE].filter((id) => !retired(id));
  const made = await Promise.all(wanted.map((id) => provision(agent, SMALL, { id })));
  for (const lvol of made) tag(scenario, lvol.status?.lvolUuid ?? "", byteOf(idOf(lvol)));
  await Promise.all(GONE.map((id) => remove(agent, id)));
}

/** The requests of the history without a kill, and its number of commits. */
async function counted(): Promise<{
  readonly methods: readonly string[];
  readonly commits: number;
}> {
  const heard = new OverheardRequests();
  await using scenario = await crashScenario({}, {}, heard.overhear);
  const agent = await scenario.start();
  await history(scenario, agent);
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
async function killedAt(
  scenario: CrashScenario,
  victim: Victim,
  stopped: Promise<unknown>,
  agent: TestAgent,
) {
  const first = history(scenario, agent).catch(() => {});
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
  await history(scenario, next);
  await settled(scenario);
  // Neither data of the deleted volumes nor old bytes of the disk are readable in the kept one.
  const { lvolUuid = "" } = next.node.agent.rows.lvol(KEPT) ?? {};
  expect(readBack(scenario, lvolUuid)).toEqual({ written: [byteOf(KEPT)], rest: [0] });
}

async function atRequest(victim: Victim, at: StopAt): Promise<void> {
  await using scenario = await crashScenario();
  const agent = await scenario.start();
  const { gate } = scenario.target.engine();
  const stopped = new Promise((resolve) => (gate.onStopped = resolve));
  gate.stopAt(at);
  await Promise.race([killedAt(scenario, victim, stopped, agent), scenario.target.aborted]);
  expect(onTarget(scenario), `${victim} at request ${at.nth}, ${at.when} it`).toEqual(
    exactly([KEPT]),
  );
}

async function atCommit(when: "before" | "after", nth: number): Promise<void> {
  await using scenario = await crashScenario();
  const agent = await scenario.start();
  const stopped = scenario.database().stopAt({ when, nth });
  await Promise.race([killedAt(scenario, "agent", stopped, agent), scenario.target.aborted]);
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
