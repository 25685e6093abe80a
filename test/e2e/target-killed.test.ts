// The target is killed with SIGKILL while volumes are UP and others are being made. Afterwards each
// wanted volume exists exactly once, and nothing else does.
import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import { startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { CAN_KILL, REAL_SOCKET, startTarget, type TestTarget } from "../support/target.ts";
import { getLvol, idOf, provision, remove, stateOf } from "../support/volumes.ts";

const LIMIT_MS = 60_000;
const UP = 50;
const MAKING = 20;

type Scenario = AsyncDisposable & { readonly target: TestTarget; readonly agent: TestAgent };

async function scenario(): Promise<Scenario> {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await testDatabase());
  const target = stack.use(await startTarget());
  const agent = stack.use(await startAgent({ url: database.url, target }));
  await agent.ready();
  return { target, agent, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

async function allUp({ agent }: Scenario, ids: readonly string[]): Promise<void> {
  await until(
    "every volume is UP",
    async () => {
      const volumes = await Promise.all(ids.map((id) => getLvol(agent, id)));
      return volumes.every((volume) => stateOf(volume) === "LVOL_STATE_UP");
    },
    LIMIT_MS,
  );
}

/** Names of all lvols, uuids of all namespaces, and namespaces on the lvol of another volume. */
async function observe({ target, agent }: Scenario) {
  const [lvols, subsystems] = await Promise.all([
    target.spdk.bdevLvolGetLvols(),
    target.spdk.nvmfGetSubsystems(),
  ]);
  const exported = subsystems.flatMap(({ namespaces }) => namespaces);
  const wrong = exported.filter(
    ({ uuid, bdevName }) => agent.node.agent.rows.lvol(uuid ?? "")?.lvolUuid !== bdevName,
  );
  const names = (list: readonly (string | undefined)[]) => list.map((one) => one ?? "").toSorted();
  return {
    lvols: names(lvols.map(({ name }) => name)),
    exported: names(exported.map(({ uuid }) => uuid)),
    wrong,
  };
}

/** The expected state: each volume once, and nothing else. */
function exactly(ids: readonly string[]) {
  const sorted = ids.toSorted();
  return { lvols: sorted, exported: sorted, wrong: [] };
}

describe.skipIf(!CAN_KILL)("a target that is killed", () => {
  it("comes back with 50 volumes that were UP and 20 that were being made", async () => {
    await using setup = await scenario();
    const { agent, target } = setup;
    const up = await Promise.all(Array.from({ length: UP }, () => provision(agent)));
    const making = Array.from({ length: MAKING }, () => randomUUID());
    const asked = making.map((id) => provision(agent, {}, { id, wait: false }));
    await asked[0];
    await target.restart();
    await Promise.all(asked);
    const ids = [...up.map(idOf), ...making];
    await allUp(setup, ids);
    expect(await observe(setup)).toEqual(exactly(ids));
  });

  it("comes back without the volumes that were being deleted", async () => {
    await using setup = await scenario();
    const { agent, target } = setup;
    const made = await Promise.all(Array.from({ length: MAKING }, () => provision(agent)));
    const ids = made.map(idOf);
    const kept = ids.slice(MAKING / 2);
    const gone = Promise.all(ids.slice(0, MAKING / 2).map((id) => remove(agent, id)));
    await target.restart();
    expect((await gone).every(({ done }) => done)).toBe(true);
    await allUp(setup, kept);
    expect(await observe(setup)).toEqual(exactly(kept));
  });
});

describe.skipIf(REAL_SOCKET !== undefined)("a target that is killed at one request", () => {
  const requests = [
    "bdev_lvol_create",
    "nvmf_create_subsystem",
    "nvmf_subsystem_add_host",
    "nvmf_subsystem_add_listener",
    "nvmf_subsystem_add_ns",
  ];
  it.each(requests.flatMap((method) => [[method, "before"] as const, [method, "after"] as const]))(
    "%s, %s its effect, and loses nothing",
    async (method, when) => {
      await using setup = await scenario();
      const { agent, target } = setup;
      const ids = Array.from({ length: 3 }, () => randomUUID());
      await using control = await target.control();
      const { stopped } = await control.stopAt({ when, method, nth: 2 });
      const asked = ids.map((id) => provision(agent, {}, { id, wait: false }));
      expect(await stopped).toBe(method);
      await target.restart();
      await Promise.all(asked);
      await allUp(setup, ids);
      expect(await observe(setup)).toEqual(exactly(ids));
    },
  );
});
