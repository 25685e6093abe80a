// Cordon and Uncordon, of one disk and of the node: no new volume, and what is there goes on.
import { afterAll, beforeAll, expect, it } from "vitest";
import { randomUUID } from "node:crypto";
import { call, refusal, startAgent, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { startTarget } from "../support/target.ts";
import { getLvol, idOf, provision, remove, stateOf } from "../support/volumes.ts";

const stack = new AsyncDisposableStack();
let url: string;
let target: Awaited<ReturnType<typeof startTarget>>;
let agent: TestAgent;

beforeAll(async () => {
  const database = stack.use(await testDatabase());
  ({ url } = database);
  target = stack.use(await startTarget({ disks: 2 }));
  agent = await startAgent({ url, target });
  await agent.ready();
});

afterAll(async () => {
  await agent[Symbol.asyncDispose]();
  await stack.disposeAsync();
});

const cordon = (diskId: string, reason = "to be replaced") =>
  call(agent.client, agent.client.cordon.bind(agent.client), { diskId, reason });
const uncordon = (diskId: string) =>
  call(agent.client, agent.client.uncordon.bind(agent.client), { diskId });
const disks = async () => {
  const page = { pageSize: 0, pageToken: "" };
  return (await call(agent.client, agent.client.listDisks.bind(agent.client), page)).disks;
};
const node = () => call(agent.client, agent.client.getNode.bind(agent.client), {});

async function firstDisk(): Promise<string> {
  return (await disks())[0]?.meta?.id ?? "";
}

it("places no new volume on a cordoned disk, also after a restart of the agent", async () => {
  const a = await firstDisk();
  const before = await provision(agent, { diskId: a });
  expect(await cordon(a)).toEqual({ changed: true });
  expect(await cordon(a)).toEqual({ changed: false });
  expect(await refusal(provision(agent, { diskId: a }))).toMatchObject({ reason: "CORDONED" });
  for (const lvol of [await provision(agent), await provision(agent)]) {
    expect(lvol.status?.diskId).not.toBe(a);
  }
  await agent[Symbol.asyncDispose]();
  agent = await startAgent({ url, target });
  await agent.ready();
  const [first] = (await disks()).filter(({ meta }) => meta?.id === a);
  expect(first?.spec?.cordoned).toBe(true);
  expect(first?.status?.state).toBe("DISK_STATE_UP");
  expect(first?.status?.conditions.find(({ type }) => type === "Schedulable")).toMatchObject({
    status: "CONDITION_STATUS_FALSE",
    reason: "Cordoned",
  });
  expect(await refusal(provision(agent, { diskId: a }))).toMatchObject({ reason: "CORDONED" });
  // What is there is served, and can be changed.
  expect(stateOf(await getLvol(agent, idOf(before)))).toBe("LVOL_STATE_UP");
  expect(await remove(agent, idOf(before))).toEqual({ done: true });
  expect(await uncordon(a)).toEqual({ changed: true });
  expect(await uncordon(a)).toEqual({ changed: false });
  expect((await provision(agent, { diskId: a })).status?.diskId).toBe(a);
});

it("takes no new volume on a cordoned node, and answers a repeat as before", async () => {
  const id = randomUUID();
  await provision(agent, {}, { id });
  expect(await cordon("")).toEqual({ changed: true });
  expect(await cordon("")).toEqual({ changed: false });
  expect((await node()).cordoned).toBe(true);
  expect(await refusal(provision(agent))).toMatchObject({ reason: "CORDONED" });
  expect(stateOf(await provision(agent, {}, { id }))).toBe("LVOL_STATE_UP");
  expect(await uncordon("")).toEqual({ changed: true });
  expect((await node()).cordoned).toBe(false);
  expect(stateOf(await provision(agent))).toBe("LVOL_STATE_UP");
});

it("refuses a cordon without a reason, and of a disk that is not there", async () => {
  const a = await firstDisk();
  expect(await refusal(cordon(a, " "))).toMatchObject({
    reason: "INVALID_FIELD",
    fields: ["reason"],
  });
  expect(await refusal(cordon("x"))).toMatchObject({ fields: ["disk_id"] });
  const strange = randomUUID();
  expect(await refusal(cordon(strange))).toMatchObject({ reason: "NOT_FOUND" });
  expect(await refusal(uncordon(strange))).toMatchObject({ reason: "NOT_FOUND" });
  expect((await disks()).some(({ spec }) => spec?.cordoned)).toBe(false);
});
