// UpdateLvol, and limits from the start, end to end: what the target has in force is what is shown, a restart
// of anything brings it back, and limits that cannot be had keep no host away.
import { afterEach, describe, expect, it } from "vitest";
import { call, refusal, until, type TestAgent } from "../support/agent.ts";
import { BusyHost } from "../support/busy-host.ts";
import { crashScenario, type CrashScenario } from "../support/crash-scenario.ts";
import { getLvol, HOST, idOf, provision, remove, stateOf, update } from "../support/volumes.ts";

const MIB = 1024n * 1024n;
const SMALL = { sizeBytes: 64n * MIB };
const NONE = { rwIops: 0n, rwMibPerSecond: 0n, readMibPerSecond: 0n, writeMibPerSecond: 0n };
const ASKED = { ...NONE, rwIops: 1_500n, readMibPerSecond: 20n };
const REAL = { ...ASKED, rwIops: 2_000n };

let stack: AsyncDisposableStack;
let scenario: CrashScenario;
let agent: TestAgent;

async function begin(...how: Parameters<typeof crashScenario>): Promise<void> {
  stack = new AsyncDisposableStack();
  scenario = stack.use(await crashScenario(...how));
  agent = await scenario.start();
  await agent.ready();
}

afterEach(async () => await stack?.[Symbol.asyncDispose]());

/** The limits that the target has in force. */
function inForce(lvolUuid: string | undefined) {
  const limits = scenario.target.state().lvol(lvolUuid ?? "")?.limits;
  return (
    limits && {
      rwIops: BigInt(limits.rwIos),
      rwMibPerSecond: BigInt(limits.rwMbytes),
      readMibPerSecond: BigInt(limits.readMbytes),
      writeMibPerSecond: BigInt(limits.writeMbytes),
    }
  );
}

describe("limits", () => {
  it("of a new volume are in force when it is UP, and shown as the target has rounded them", async () => {
    await begin();
    const made = await provision(agent, { ...SMALL, qos: ASKED });
    expect(stateOf(made)).toBe("LVOL_STATE_UP");
    expect(made.spec?.qos).toEqual(ASKED);
    expect(made.status?.qos).toEqual(REAL);
    expect(inForce(made.status?.lvolUuid)).toEqual(REAL);
    const again = await provision(agent, { ...SMALL, qos: ASKED }, { id: idOf(made) });
    expect(again.meta?.generation).toBe(made.meta?.generation);
  });

  it("are set, changed and taken away while a host uses the volume", async () => {
    await begin();
    const made = await provision(agent, SMALL);
    const { lvolUuid = "", nqn = "" } = made.status ?? {};
    await using host = await BusyHost.connect({ fabric: scenario.target.fabric, host: HOST, nqn });
    for (const [qos, real] of [
      [ASKED, REAL],
      [
        { ...NONE, writeMibPerSecond: 5n },
        { ...NONE, writeMibPerSecond: 5n },
      ],
      [NONE, NONE],
    ] as const) {
      const changed = await update(agent, idOf(made), { qos });
      expect(changed.status?.qos).toEqual(real);
      expect(changed.status?.observedGeneration).toBe(changed.meta?.generation);
      expect(inForce(lvolUuid)).toEqual(real);
    }
    await host.writesAgain();
    expect(await host.stop()).toEqual([]);
  });

  it("come back with the export when the target restarts", async () => {
    await begin();
    const made = await provision(agent, { ...SMALL, qos: ASKED });
    await scenario.target.restart();
    await until("they are in force again", () => inForce(made.status?.lvolUuid)?.rwIops === 2_000n);
    expect(inForce(made.status?.lvolUuid)).toEqual(REAL);
    await until("they are shown", async () => {
      return (await getLvol(agent, idOf(made))).status?.qos?.rwIops === 2_000n;
    });
  });

  it("come back from the local copy, when agent and target restart without the database", async () => {
    await begin();
    const made = await provision(agent, { ...SMALL, qos: ASKED });
    await remove(agent, idOf(await provision(agent, SMALL)));
    await scenario.killAgent();
    await scenario.target.restart();
    await scenario.start({ databaseAway: true });
    await until("they are in force again", () => inForce(made.status?.lvolUuid)?.rwIops === 2_000n);
    expect(inForce(made.status?.lvolUuid)).toEqual(REAL);
  });

  it("that the target refuses keep no host away, and come into force once it takes them", async () => {
    await begin();
    const { gate } = scenario.target.engine();
    const failure = { code: -32602, message: "Failed to configure rate limit", half: false };
    const method = "bdev_set_qos_limit";
    gate.addRule({ effect: "fail", method, nth: 1, always: true, failure });
    const made = await provision(agent, { ...SMALL, qos: ASKED });
    expect(stateOf(made)).toBe("LVOL_STATE_UP");
    expect(made.status?.qos).toEqual(NONE);
    expect(made.status?.conditions.find(({ type }) => type === "QosRefused")).toMatchObject({
      status: "CONDITION_STATUS_TRUE",
      message: expect.stringContaining("Failed to configure rate limit"),
    });
    const { client } = agent;
    const { summary } = await call(client, client.explain.bind(client), {
      target: { $case: "lvolId", value: idOf(made) },
    });
    expect(summary).toMatch(/is UP: its limits are not in force .*2000 operations per second/);
    const { nqn = "" } = made.status ?? {};
    await using host = await BusyHost.connect({ fabric: scenario.target.fabric, host: HOST, nqn });
    await host.writesAgain();
    gate.clear();
    await until("they are in force", () => inForce(made.status?.lvolUuid)?.rwIops === 2_000n);
    await until("nothing is wrong any more", async () => {
      const { status } = await getLvol(agent, idOf(made));
      return status?.conditions.every(({ type }) => type !== "QosRefused") === true;
    });
    expect(await host.stop()).toEqual([]);
  });

  it("beyond what an agent takes are refused, all bad ones in one answer", async () => {
    await begin();
    const qos = { ...NONE, rwIops: 2n ** 63n, writeMibPerSecond: 2n ** 40n };
    expect(await refusal(provision(agent, { ...SMALL, qos }))).toMatchObject({
      code: 3,
      reason: "INVALID_FIELD",
      fields: ["spec.qos.rw_iops", "spec.qos.write_mib_per_second"],
    });
  });
});

describe("labels", () => {
  it("are replaced as a whole, and nothing else changes", async () => {
    await begin();
    const labels = { a: "1", b: "2" };
    const made = await provision(agent, { ...SMALL, qos: ASKED, labels });
    const changed = await update(agent, idOf(made), { labels: { c: "3" }, setLabels: true });
    expect(changed.spec).toEqual({ ...made.spec, labels: { c: "3" } });
    expect(changed.status?.observedGeneration).toBe(changed.meta?.generation);
    const emptied = await update(agent, idOf(made), { labels: {}, setLabels: true });
    expect(emptied.spec?.labels).toEqual({});
    const mistaken = update(agent, idOf(made), { labels: { d: "4" } });
    expect(await refusal(mistaken)).toMatchObject({ fields: ["set_labels"] });
  });
});

describe("an etag", () => {
  it("changes with every intent, and refuses to overwrite what somebody else has changed", async () => {
    await begin();
    const made = await provision(agent, SMALL);
    const id = idOf(made);
    const mine = { etag: made.meta?.etag ?? "", labels: { a: "mine" }, setLabels: true };
    const theirs = await update(agent, id, { labels: { a: "theirs" }, setLabels: true });
    expect(theirs.meta?.etag).not.toBe(made.meta?.etag);
    const refused = await refusal(update(agent, id, mine));
    expect(refused).toMatchObject({
      code: 10,
      reason: "ETAG_MISMATCH",
      metadata: { etag: theirs.meta?.etag },
    });
    expect((await getLvol(agent, id)).spec?.labels).toEqual({ a: "theirs" });
    const etag = theirs.meta?.etag ?? "";
    const first = await update(agent, id, { ...mine, etag });
    // The answer was lost: the same call again, with the etag of then.
    const repeated = await update(agent, id, { ...mine, etag });
    expect(repeated.meta?.generation).toBe(first.meta?.generation);
  });
});
