// Discards of hosts, by release of the target: no block that one tenant discarded is ever shown to
// another, and no volume that is in use is lost (docs/architecture.md#r7-tenants-and-free-space).
import { describe, expect, it } from "vitest";
import { Provisioning, type Lvol } from "../../src/gen/storagenode/v1/lvol.ts";
import { SimulatedHost } from "../../src/sim/host/simulated-host.ts";
import type { ReleaseName } from "../../src/sim/target/release.ts";
import { BY_HAND, call, refusal, until, type TestAgent } from "../support/agent.ts";
import { crashScenario, type CrashScenario } from "../support/crash-scenario.ts";
import { takeSnapshot } from "../support/snapshots.ts";
import { getLvol, HOST, idOf, provision, remove, stateOf, WAIT } from "../support/volumes.ts";

const MIB = 1_048_576;
const CLUSTER = 4 * MIB;
const SMALL = { sizeBytes: BigInt(4 * CLUSTER) };
const THICK = { ...SMALL, provisioning: Provisioning.PROVISIONING_THICK };
const TRUSTED = { env: { STORAGE_NODE_ISOLATION: "trusted" } };
/** What the first tenant writes. */
const SECRET = 7;

type Scenario = CrashScenario & { readonly agent: () => TestAgent };

async function on(release: ReleaseName, discardZeroes?: boolean): Promise<Scenario> {
  const target = {
    release,
    ...(discardZeroes !== undefined && { discardZeroes, unmap: "zeroes" as const }),
  };
  const scenario = await crashScenario({}, { target, env: BY_HAND });
  await (await scenario.start()).ready();
  return scenario;
}

async function theDisk({ client }: TestAgent) {
  const request = { pageSize: 0, pageToken: "" };
  const { disks } = await call(client, client.listDisks.bind(client), request);
  const [disk] = disks;
  const status = disk?.status;
  const condition = (type: string) => status?.conditions.find((one) => one.type === type)?.status;
  return {
    id: disk?.meta?.id ?? "",
    serial: status?.serial ?? "",
    freeSpace: status?.lvstore?.freeSpace,
    discardZeroes: condition("DiscardZeroes"),
  };
}

async function zeroFreeSpace(agent: TestAgent) {
  const { client } = agent;
  const { id: diskId } = await theDisk(agent);
  return await call(client, client.zeroFreeSpace.bind(client), { diskId, waitTimeout: WAIT });
}

function hostOf({ target }: CrashScenario, lvol: Lvol): SimulatedHost {
  const host = new SimulatedHost({
    fabric: target.fabric,
    host: HOST,
    nqn: lvol.status?.nqn ?? "",
    address: { traddr: "127.0.0.1", trsvcid: "4440" },
    reconnectDelayMs: 20,
    ctrlLossTmoMs: 60_000,
  });
  host.start();
  return host;
}

/** Clusters that come back to the store when the host has written two and discards both. */
async function discardedBy(scenario: CrashScenario, host: SimulatedHost): Promise<number> {
  await host.until(() => host.device !== undefined);
  await host.write(0, Buffer.alloc(2 * CLUSTER, SECRET));
  const [store] = [...scenario.target.state().stores.values()];
  const free = () => store?.store.free.size ?? Number.NaN;
  const before = free();
  await host.discard(0, 2 * CLUSTER);
  return free() - before;
}

/** The bytes that another tenant finds in a new volume around one page that it has written. */
async function shownToAnother(scenario: CrashScenario): Promise<readonly number[]> {
  const lvol = await provision(scenario.agent(), SMALL);
  using host = hostOf(scenario, lvol);
  await host.until(() => host.device !== undefined);
  await host.write(0, Buffer.alloc(4_096, 1));
  const read = await host.read(4_096, CLUSTER - 4_096);
  if (!read.ok || read.bytes === undefined) throw new Error("the host cannot read its volume");
  return [...new Set(read.bytes)];
}

describe("with isolation strict", () => {
  it.each<ReleaseName>(["24.01", "26.01", "26.09"])(
    "on %s a host's discard frees no cluster, and another tenant reads zeros",
    async (release) => {
      await using scenario = await on(release);
      const lvol = await provision(scenario.agent(), SMALL);
      using host = hostOf(scenario, lvol);
      expect(await discardedBy(scenario, host)).toBe(0);
      expect(await shownToAnother(scenario)).toEqual([0]);
      expect(await theDisk(scenario.agent())).toMatchObject({ freeSpace: "FREE_SPACE_ZEROED" });
      await remove(scenario.agent(), idOf(lvol), { force: true, reason: "test" });
      expect(await shownToAnother(scenario)).toEqual([0]);
    },
  );

  it("on 26.01 the next agent knows that discards are refused", async () => {
    await using scenario = await on("26.01");
    await provision(scenario.agent(), SMALL);
    await scenario.killAgent();
    const agent = await scenario.start();
    await agent.ready();
    await provision(agent, SMALL);
    expect(await theDisk(agent)).toMatchObject({
      freeSpace: "FREE_SPACE_ZEROED",
      discardZeroes: "CONDITION_STATUS_UNKNOWN",
    });
  });

  it("on 25.05 no thin volume is made, and a thick one gives nothing back", async () => {
    await using scenario = await on("25.05");
    const agent = scenario.agent();
    expect(await refusal(provision(agent, SMALL))).toMatchObject({
      code: 9,
      reason: "DISCARD_NOT_ZEROING",
    });
    const { id: diskId, serial } = await theDisk(agent);
    const named = await refusal(provision(agent, { ...SMALL, diskId }));
    expect(named.reason).toBe("DISCARD_NOT_ZEROING");
    const lvol = await provision(agent, THICK);
    using host = hostOf(scenario, lvol);
    expect(await discardedBy(scenario, host)).toBe(0);
    expect(await theDisk(agent)).toMatchObject({ freeSpace: "FREE_SPACE_ZEROED" });

    // A snapshot would make it thin.
    const snapshot = await refusal(takeSnapshot(agent, idOf(lvol)));
    expect(snapshot.reason).toBe("DISCARD_NOT_ZEROING");

    const { client } = agent;
    const asserts = {
      diskId,
      serial,
      evidenceFingerprint: "",
      address: "",
      discardZeroes: true,
      waitTimeout: WAIT,
    };
    const { disk } = await call(client, client.admitDisk.bind(client), asserts);
    expect(disk?.status?.discardZeroes).toBe(true);
    expect(stateOf(await provision(agent, SMALL))).toBe("LVOL_STATE_UP");
  });

  it("on 25.05 a disk whose entry says discard_zeroes takes thin volumes; discards free clean clusters", async () => {
    await using scenario = await on("25.05", true);
    const lvol = await provision(scenario.agent(), SMALL);
    using host = hostOf(scenario, lvol);
    expect(await discardedBy(scenario, host)).toBe(2);
    expect(await theDisk(scenario.agent())).toMatchObject({
      freeSpace: "FREE_SPACE_ZEROED",
      discardZeroes: "CONDITION_STATUS_TRUE",
    });
    expect(await shownToAnother(scenario)).toEqual([0]);
  });

  it("a thin volume that meets a release without protection is served on, and its disk takes no new ones", async () => {
    await using scenario = await on("24.01");
    const agent = scenario.agent();
    const lvol = await provision(agent, SMALL);
    using host = hostOf(scenario, lvol);
    await host.until(() => host.device !== undefined);
    await scenario.target.restart({ release: "25.05" });
    await until("the volume is UP on the new release", async () => {
      return stateOf(await getLvol(agent, idOf(lvol))) === "LVOL_STATE_UP";
    });
    await until("its host has its device back", () => host.state === "live");
    expect(await discardedBy(scenario, host)).toBe(2);
    await until("the disk says so", async () => {
      const { freeSpace, discardZeroes } = await theDisk(agent);
      return freeSpace === "FREE_SPACE_UNKNOWN" && discardZeroes === "CONDITION_STATUS_FALSE";
    });
    expect((await refusal(provision(agent, THICK))).reason).toBe("FREE_SPACE_NOT_ZEROED");
    expect((await refusal(zeroFreeSpace(agent))).reason).toBe("DISCARD_NOT_ZEROING");

    await scenario.target.restart({ release: "26.09" });
    await until("the hosts' discards are limited again", async () => {
      return (await theDisk(agent)).discardZeroes === "CONDITION_STATUS_UNKNOWN";
    });
    expect((await refusal(provision(agent, THICK))).reason).toBe("FREE_SPACE_NOT_ZEROED");
    await zeroFreeSpace(agent);
    expect(await shownToAnother(scenario)).toEqual([0]);
  });

  it("an export that was made without a limit makes the free space UNKNOWN until the target restarts", async () => {
    await using scenario = await crashScenario({}, { target: {}, env: BY_HAND });
    const trusting = await scenario.start(TRUSTED);
    await trusting.ready();
    const lvol = await provision(trusting, SMALL);
    await scenario.killAgent();
    const agent = await scenario.start();
    await agent.ready();
    expect(await theDisk(agent)).toMatchObject({
      freeSpace: "FREE_SPACE_UNKNOWN",
      discardZeroes: "CONDITION_STATUS_FALSE",
    });
    expect(stateOf(await getLvol(agent, idOf(lvol)))).toBe("LVOL_STATE_UP");
    expect((await refusal(provision(agent, SMALL))).reason).toBe("FREE_SPACE_NOT_ZEROED");
    await scenario.target.restart();
    await until("the export has a limit", async () => {
      return (await theDisk(agent)).discardZeroes === "CONDITION_STATUS_UNKNOWN";
    });
    await zeroFreeSpace(agent);
    expect(await shownToAnother(scenario)).toEqual([0]);
  });
});

describe("with isolation trusted", () => {
  it("a discard frees clusters, another volume may show them, and the disk says so", async () => {
    await using scenario = await crashScenario({}, { target: {}, ...TRUSTED });
    const agent = await scenario.start();
    await agent.ready();
    const lvol = await provision(agent, SMALL);
    using host = hostOf(scenario, lvol);
    expect(await discardedBy(scenario, host)).toBe(2);
    expect(await theDisk(agent)).toMatchObject({ freeSpace: "FREE_SPACE_UNKNOWN" });
    expect(await shownToAnother(scenario)).toEqual([SECRET]);
  });
});
