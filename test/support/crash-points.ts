// Kills the agent, the target or both at every request that the target reads and at every commit of a
// history. A run without a kill counts the points; after each kill the same calls are repeated, and what is
// on the target must be the same as without a kill.
import { expect } from "vitest";
import type { StopAt } from "../../src/sim/target/gate.ts";
import { refusal, until, type TestAgent } from "./agent.ts";
import { crashScenario, onTarget, settled, type CrashScenario } from "./crash-scenario.ts";
import { OverheardRequests } from "./overheard-requests.ts";
import type { Overhear } from "./socket-proxy.ts";

export type Setup = AsyncDisposable & { readonly scenario: CrashScenario };

/** Calls whose repetition leads to one and the same state, and what that is. */
export type History<Of extends Setup> = {
  /** Takes over the scenario. */
  readonly setUp: (scenario: CrashScenario) => Of;
  readonly run: (setup: Of, agent: TestAgent) => Promise<void>;
  /** Throws if hosts have seen harm, or data is not what it is to be. */
  readonly check: (setup: Of, agent: TestAgent) => Promise<void>;
  readonly expected: ReturnType<typeof onTarget>;
  /** Kills begin with the first such request. */
  readonly from?: string;
  /** Of so many points one is taken; each victim has others. Default: all. */
  readonly oneOf?: number;
};

const VICTIMS = ["agent", "target", "agent and target"] as const;

export type Victim = (typeof VICTIMS)[number];

/** Those that are killed at for this victim; all of them if POINTS is "all". */
export function sampled<Point>(
  points: readonly Point[],
  victim: Victim,
  { oneOf = 1 }: { readonly oneOf?: number },
): readonly Point[] {
  if (process.env["POINTS"] === "all") return points;
  const offset = VICTIMS.indexOf(victim) % oneOf;
  return points.filter((_, index) => index % oneOf === offset);
}

async function setUp<Of extends Setup>(history: History<Of>, overhear?: Overhear): Promise<Of> {
  return history.setUp(await crashScenario({}, { overhear }));
}

/** The requests of the history without a kill, and its number of commits. */
export async function counted<Of extends Setup>(history: History<Of>) {
  const heard = new OverheardRequests();
  await using setup = await setUp(history, heard.overhear);
  const { scenario } = setup;
  const agent = await scenario.start();
  await history.run(setup, agent);
  const methods = heard.take().map(({ method }) => method);
  const { commits } = scenario.database();
  await settled(scenario);
  await history.check(setup, agent);
  expect(onTarget(scenario)).toEqual(history.expected);
  return { methods, commits };
}

/**
 * Before each request, and after each change: a read has no effect that could be lost.
 */
export function pointsOf(
  methods: readonly string[],
  { from }: { readonly from?: string },
): readonly StopAt[] {
  const first = from === undefined ? 0 : methods.indexOf(from);
  return methods.flatMap((method, index) => {
    if (index < first) return [];
    const before = { when: "before", nth: index + 1 } as const;
    return /_get_/.test(method) ? [before] : [before, { ...before, when: "after" } as const];
  });
}

/** As a scheduler does that is told to wait until the free space is zeroed. */
async function repeated<Of extends Setup>(history: History<Of>, setup: Of, agent: TestAgent) {
  await until("no call is refused any more", async () => {
    const error: unknown = await history.run(setup, agent).catch((thrown: unknown) => thrown);
    if (error === undefined) return true;
    if ((await refusal(Promise.reject(error))).reason !== "FREE_SPACE_NOT_ZEROED") throw error;
    return false;
  });
}

/** Kills the victim at a point, restarts it, and repeats the history. */
async function killedAt<Of extends Setup>(
  history: History<Of>,
  setup: Of,
  victim: Victim,
  { stopped, agent }: { readonly stopped: Promise<unknown>; readonly agent: TestAgent },
): Promise<void> {
  const { scenario } = setup;
  const first = history.run(setup, agent).catch(() => {});
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
  await repeated(history, setup, next);
  await settled(scenario);
  await history.check(setup, next);
}

export async function atRequest<Of extends Setup>(
  history: History<Of>,
  victim: Victim,
  at: StopAt,
): Promise<void> {
  await using setup = await setUp(history);
  const { scenario } = setup;
  const agent = await scenario.start();
  const { gate } = scenario.target.engine();
  const stopped = new Promise((resolve) => (gate.onStopped = resolve));
  gate.stopAt(at);
  const where = `${victim} at request ${at.nth}, ${at.when} it`;
  await during(where, setup, killedAt(history, setup, victim, { stopped, agent }));
  expect({ where, ...onTarget(scenario) }).toEqual({ where, ...history.expected });
}

export async function atCommit<Of extends Setup>(
  history: History<Of>,
  when: "before" | "after",
  nth: number,
): Promise<void> {
  await using setup = await setUp(history);
  const { scenario } = setup;
  const agent = await scenario.start();
  const stopped = scenario.database().stopAt({ when, nth });
  const where = `commit ${nth}, ${when} it`;
  await during(where, setup, killedAt(history, setup, "agent", { stopped, agent }));
  expect({ where, ...onTarget(scenario) }).toEqual({ where, ...history.expected });
}

async function during(where: string, { scenario }: Setup, work: Promise<void>): Promise<void> {
  try {
    await Promise.race([work, scenario.target.aborted]);
  } catch (cause) {
    throw new Error(`killed: ${where}`, { cause });
  }
}

/** Runs four scenarios at a time: each waits most of the time. */
export async function each<T>(items: readonly T[], act: (item: T) => Promise<void>): Promise<void> {
  const remaining = items.values();
  const worker = async () => {
    for (const item of remaining) await act(item);
  };
  await Promise.all(Array.from({ length: 4 }, worker));
}
