// One volume whose namespace kills the target: the others are exported all the same, after few crashes,
// and the one that does it is tried less and less often, over restarts of both sides.
import { describe, expect, it } from "vitest";
import { startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { supervisedTarget, type SupervisedTarget } from "../support/supervised-target.ts";
import { idOf, provision } from "../support/volumes.ts";
import { explainVolume } from "../support/explain.ts";

const LIMIT_MS = 60_000;
const SIZE = 64n * 1024n * 1024n;
const KEY = "export/add-namespace 1";

type Scenario = AsyncDisposable & {
  readonly target: SupervisedTarget;
  readonly agent: () => TestAgent;
  readonly restartAgent: () => Promise<void>;
  readonly bad: string;
  readonly good: readonly string[];
};

/** That many volumes, UP; from the next restart of the target on, one of them kills it. */
async function scenario(volumes: number, badIndex: number): Promise<Scenario> {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await testDatabase());
  const target = stack.use(await supervisedTarget({ diskBytes: 16 * 1024 ** 3 }));
  const start = () => startAgent({ url: database.url, target });
  let agent = await start();
  stack.defer(() => agent[Symbol.asyncDispose]());
  await agent.ready();
  const made = await Promise.all(
    Array.from({ length: volumes }, () => provision(agent, { sizeBytes: SIZE })),
  );
  const ids = made.map(idOf).toSorted();
  const bad = ids[badIndex] ?? "";
  target.trap(agent.node.agent.rows.lvol(bad)?.lvolUuid ?? "", true);
  return {
    target,
    agent: () => agent,
    restartAgent: async () => {
      await agent[Symbol.asyncDispose]();
      agent = await start();
    },
    bad,
    good: ids.filter((id) => id !== bad),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

/** Volumes that hosts can reach on the target now. */
function exported({ target }: Scenario): readonly string[] {
  return [...target.state().subsystems.values()].flatMap(({ listeners, namespaces }) =>
    listeners.length === 0 ? [] : [...namespaces.values()].flatMap(({ uuid }) => uuid ?? []),
  );
}

async function othersExported(on: Scenario): Promise<void> {
  await until(
    "all others are exported",
    () => {
      const now = new Set(exported(on));
      return on.good.every((id) => now.has(id));
    },
    LIMIT_MS,
  );
}

const failureOf = (on: Scenario) => on.agent().node.agent.rows.lvol(on.bad)?.failures[KEY];

/** Until the volume is the only suspect, with that many crashes. */
async function convicted(on: Scenario, crashes: number): Promise<void> {
  await until(
    `it is convicted of ${crashes} crashes`,
    () => {
      const { rows } = on.agent().node.agent;
      const suspects = [...rows.lvols()].filter(({ failures }) =>
        Object.values(failures).some(({ crashTime }) => crashTime !== undefined),
      );
      const counts = (failureOf(on)?.attempt ?? 0) >= crashes;
      return counts && suspects.length === 1 && suspects[0]?.id === on.bad;
    },
    LIMIT_MS,
  );
}

describe.each([
  { volumes: 5, badIndex: 2 },
  { volumes: 50, badIndex: 0 },
  { volumes: 50, badIndex: 49 },
])("volume $badIndex of $volumes kills the target", ({ volumes, badIndex }) => {
  it("does not keep the others from being exported, after few crashes", async () => {
    await using on = await scenario(volumes, badIndex);
    await on.target.restart();
    await until("the target has died", () => on.target.aborts() > 0);
    await othersExported(on);
    await convicted(on, 1);
    await othersExported(on);
    expect(on.target.aborts()).toBeLessThanOrEqual(Math.ceil(Math.log2(volumes)) + 2);
    // Each crash was one of its tries, and so is each further one.
    const crashes = failureOf(on)?.attempt ?? 0;
    await convicted(on, crashes + 1);
    await until("every crash is counted", () => failureOf(on)?.attempt === on.target.aborts());
    await othersExported(on);
  });
});

describe("a step that killed the target", () => {
  it("is remembered by the next agent, named by Explain and health, and forgiven once it works", async () => {
    await using on = await scenario(5, 1);
    await on.target.restart();
    await convicted(on, 3);
    await othersExported(on);
    await on.restartAgent();
    await othersExported(on);
    await convicted(on, 4);
    const words = new RegExp(
      `volume ${on.bad}: nvmf_subsystem_add_ns was in flight when the target died, \\d+ times`,
    );
    await until("health names it and the next try", () =>
      on
        .agent()
        .node.agent.components()
        .some(({ ok, reason }) => !ok && words.test(reason) && reason.includes("next try at")),
    );
    await until("Explain names it", async () => {
      const { summary } = await explainVolume(on.agent(), on.bad);
      return summary.includes("nvmf_subsystem_add_ns was in flight when the target died");
    });
    on.target.trap(on.agent().node.agent.rows.lvol(on.bad)?.lvolUuid ?? "", false);
    await until("it is exported", () => exported(on).includes(on.bad), LIMIT_MS);
    await until("nothing is suspected", () => failureOf(on) === undefined);
    expect(on.agent().node.agent.components()).toContainEqual(
      expect.objectContaining({ name: "suspects", ok: true }),
    );
  });
});
