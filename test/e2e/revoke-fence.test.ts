// AllowHost, RevokeHost and GetExport answer what is true on the target at the moment of the answer, however
// late the target answers, and whoever else changes it.
import { afterAll, beforeAll, expect, it } from "vitest";
import { spdkClient } from "../../src/spdk/client.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import { call, startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { inProcessTarget, type InProcessTarget } from "../support/in-process-target.ts";
import { HOST, idOf, provision, WAIT } from "../support/volumes.ts";

const OTHER = `${HOST.slice(0, -1)}2`;
const PAIRS = 80;
const LATE = { polls: 40 };

const stack = new AsyncDisposableStack();
let target: InProcessTarget;
let agent: TestAgent;
let id: string;
let nqn: string;

beforeAll(async () => {
  const database = stack.use(await testDatabase());
  target = stack.use(await inProcessTarget({}));
  agent = stack.use(await startAgent({ url: database.url, target }));
  await agent.ready();
  const lvol = await provision(agent);
  id = idOf(lvol);
  nqn = agent.node.agent.rows.lvol(id)?.nqn ?? "";
});

afterAll(async () => {
  await stack.disposeAsync();
});

const isIn = () => target.state().subsystems.get(nqn)?.hosts.includes(OTHER) === true;

async function change(kind: "allowHost" | "revokeHost", wait: boolean): Promise<boolean> {
  const { client } = agent;
  const waitTimeout = wait ? WAIT : undefined;
  const request = { lvolId: id, hostNqn: OTHER, waitTimeout, deferred: false };
  await call(client, client[kind].bind(client), request);
  return isIn();
}

/** Until everything that was asked for is done. */
async function quiet(): Promise<void> {
  await until("the intent is carried out", () => {
    const row = agent.node.agent.rows.lvol(id);
    return row !== undefined && row.observedGeneration === row.generation;
  });
}

async function readyFor(host: string): Promise<boolean> {
  const { client } = agent;
  const target = { $case: "lvolId", value: id } as const;
  const answer = await call(client, client.getExport.bind(client), { target, hostNqn: host });
  return answer.export?.ready === true;
}

it("RevokeHost ends after a late add_host has ended, and the host stays out", async () => {
  target.engine().gate.addRule({
    effect: "delay",
    method: "nvmf_subsystem_add_host",
    nth: 1,
    ...LATE,
  });
  await change("allowHost", false);
  expect(await change("revokeHost", true)).toBe(false);
  await quiet();
  expect(isIn()).toBe(false);
});

it.each([
  { first: "allowHost", second: "revokeHost", isInThen: false },
  { first: "revokeHost", second: "allowHost", isInThen: true },
] as const)("$second right after $first never ends early", async ({ first, second, isInThen }) => {
  target.engine().gate.addRule({ effect: "delay", nth: 1, polls: 1, always: true });
  const answers: boolean[] = [];
  for (let pair = 0; pair < PAIRS; pair += 1) {
    await change(first, pair % 4 === 0);
    answers.push(await change(second, true));
  }
  target.engine().gate.clear();
  expect(new Set(answers)).toEqual(new Set([isInThen]));
  await quiet();
  expect(isIn()).toBe(isInThen);
});

it("GetExport is never ready for a host before the target lets it in, nor after it does not", async () => {
  const early: string[] = [];
  for (let turn = 0; turn < 10; turn += 1) {
    await change("revokeHost", true);
    if (await readyFor(OTHER)) early.push("after RevokeHost");
    target.engine().gate.addRule({
      effect: "delay",
      method: "nvmf_subsystem_add_host",
      nth: 1,
      polls: 3,
    });
    await change("allowHost", false);
    await until("it is ready", async () => {
      const ready = await readyFor(OTHER);
      if (ready && !isIn()) early.push("before the host was let in");
      return ready;
    });
  }
  expect(early).toEqual([]);
});

it.each(["is in the row", "is not in the row"])(
  "RevokeHost takes a host away that somebody else has let in and that %s",
  async (where) => {
    await change("revokeHost", true);
    await quiet();
    const connection = new SpdkConnection({ path: target.socket, mayMutate: () => true });
    stack.defer(() => connection[Symbol.asyncDispose]());
    await until("it is connected", () => connection.connected);
    await spdkClient(connection).nvmfSubsystemAddHost({ nqn, host: OTHER });
    expect(isIn()).toBe(true);
    if (where === "is in the row") await change("allowHost", false);
    expect(await change("revokeHost", true)).toBe(false);
    await quiet();
    expect(isIn()).toBe(false);
  },
);

it("AllowHost lets a host in that somebody else has taken away", async () => {
  await change("allowHost", true);
  await quiet();
  const connection = new SpdkConnection({ path: target.socket, mayMutate: () => true });
  stack.defer(() => connection[Symbol.asyncDispose]());
  await until("it is connected", () => connection.connected);
  await spdkClient(connection).nvmfSubsystemRemoveHost({ nqn, host: OTHER });
  expect(isIn()).toBe(false);
  expect(await change("allowHost", true)).toBe(true);
});
