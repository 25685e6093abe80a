// Number of SPDK calls for many volumes at once. Counts instead of times, because counts are the
// same on every machine. Uses the simulated target, which counts the requests that it reads.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startAgent, type TestAgent } from "../support/agent.ts";
import type { Control } from "../support/control.ts";
import { testDatabase } from "../support/database.ts";
import { REAL_SOCKET, startTarget } from "../support/target.ts";
import { provision, remove, stateOf } from "../support/volumes.ts";

const VOLUMES = 200;

/** Counts of full lists (no name given): each blocks the I/O of a real target. */
async function fullDumps(control: Control): Promise<Readonly<Record<string, number>>> {
  const lists = Object.entries(await control.counts()).filter(
    ([method]) => /^(bdev|nvmf)_.*get_.*\(\)$/.test(method) && method !== "nvmf_get_stats()",
  );
  return Object.fromEntries(lists);
}

describe.skipIf(REAL_SOCKET !== undefined)("200 volumes asked for by 200 concurrent calls", () => {
  const stack = new AsyncDisposableStack();
  let control: Control;
  let agent: TestAgent;
  let start: () => Promise<TestAgent>;

  beforeAll(async () => {
    const database = stack.use(await testDatabase());
    const target = stack.use(await startTarget());
    start = async () => {
      const started = await startAgent({ url: database.url, target });
      await started.ready();
      return started;
    };
    agent = await start();
    stack.defer(async () => await agent[Symbol.asyncDispose]());
    control = stack.use(await target.control());
  });

  afterAll(async () => {
    await stack.disposeAsync();
  });

  const restart = async () => {
    await agent[Symbol.asyncDispose]();
    await control.resetCounts();
    agent = await start();
  };

  it("are all UP after four changes each, one more per host, and no read", async () => {
    await control.resetCounts();
    const made = await Promise.all(Array.from({ length: VOLUMES }, () => provision(agent)));
    expect(new Set(made.map(stateOf))).toEqual(new Set(["LVOL_STATE_UP"]));
    // Exclude what is periodic: event polls, and the health of the disks.
    const health = "bdev_nvme_get_controller_health_info";
    const polls = ["notify_get_notifications", "nvmf_get_stats()", health];
    const counts = Object.entries(await control.counts()).filter(([key]) => !polls.includes(key));
    expect(Object.fromEntries(counts)).toEqual({
      bdev_lvol_create: VOLUMES,
      nvmf_create_subsystem: VOLUMES,
      nvmf_subsystem_add_host: VOLUMES,
      nvmf_subsystem_add_listener: VOLUMES,
      nvmf_subsystem_add_ns: VOLUMES,
    });
  });

  it("are deleted with two changes each and no full list", async () => {
    const ids = [...agent.node.agent.rows.lvols()].map(({ id }) => id);
    await control.resetCounts();
    const answers = await Promise.all(ids.map((id) => remove(agent, id)));
    expect(answers.every(({ done }) => done)).toBe(true);
    expect(await control.counts()).toMatchObject({
      nvmf_delete_subsystem: VOLUMES,
      bdev_lvol_delete: VOLUMES,
    });
    expect(await fullDumps(control)).toEqual({});
  });

  it("cost a starting agent at most two full lists of each kind, and no change", async () => {
    await Promise.all(Array.from({ length: VOLUMES }, () => provision(agent)));
    await restart();
    // One or two of each: the target may be identified before or after the lease is acquired.
    const dumps = await fullDumps(control);
    expect(Object.values(dumps).filter((count) => count > 2)).toEqual([]);
    const changes = Object.keys(await control.counts()).filter((method) =>
      /create|add_|delete|remove|attach/.test(method),
    );
    expect(changes).toEqual([]);
  });
});
