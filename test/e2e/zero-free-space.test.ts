// ZeroFreeSpace: afterwards no free cluster holds old bytes, whatever hosts, other calls and kills did
// meanwhile; and nothing of it is left on the disk (docs/architecture.md#zeroing-of-free-space).
import { describe, expect, it } from "vitest";
import { writeLvol } from "../../src/sim/target/clusters.ts";
import { spdkClient } from "../../src/spdk/client.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import type { StopAt } from "../../src/sim/target/gate.ts";
import { BY_HAND, call, refusal, until, type TestAgent } from "../support/agent.ts";
import { crashScenario, tag, type CrashScenario } from "../support/crash-scenario.ts";
import {
  freeClusterCount,
  slicesOf,
  soiledClusters,
  soilFreeClusters,
} from "../support/free-space.ts";
import { getLvol, idOf, provision, remove, WAIT } from "../support/volumes.ts";

const SMALL = { sizeBytes: 16n * 1_048_576n };
const OLD = 0x77;
const CLUSTER = 4 * 1_048_576;
const CLUSTERS = 250;
/** That all but the reserve of such a disk is held by. */
const SLICES = 15;

async function diskOf({ client }: TestAgent) {
  const request = { pageSize: 0, pageToken: "" };
  const { disks } = await call(client, client.listDisks.bind(client), request);
  const [disk] = disks;
  return {
    id: disk?.meta?.id ?? "",
    freeSpace: disk?.status?.lvstore?.freeSpace,
    zeroing: disk?.status?.zeroing,
  };
}

async function zeroFreeSpace(agent: TestAgent, waitSeconds = WAIT.seconds) {
  const { client } = agent;
  const { id: diskId } = await diskOf(agent);
  const waitTimeout = waitSeconds === 0n ? undefined : { seconds: waitSeconds, nanos: 0 };
  return await call(client, client.zeroFreeSpace.bind(client), { diskId, waitTimeout });
}

/** A disk whose free clusters hold old bytes, as its row says, with a volume; no agent runs. */
async function soil(scenario: CrashScenario) {
  const agent = await scenario.start();
  await agent.ready();
  const used = await provision(agent, SMALL);
  await scenario.killAgent();
  await scenario.query("update disk set free_space = 'UNKNOWN'");
  expect(soilFreeClusters(scenario, OLD)).toBeGreaterThan(1_000);
  return used;
}

/** As soil, with an agent that waits to be asked. */
async function soiled(scenario: CrashScenario) {
  const used = await soil(scenario);
  const next = await scenario.start();
  await next.ready();
  expect((await refusal(provision(next, SMALL))).reason).toBe("FREE_SPACE_NOT_ZEROED");
  return { agent: next, used };
}

/** What is left once the free space is zeroed. */
async function zeroed(scenario: CrashScenario) {
  await until("the free space is zeroed", async () => {
    const disk = await diskOf(scenario.agent());
    return disk.freeSpace === "FREE_SPACE_ZEROED" && disk.zeroing === undefined;
  });
  return { soiled: soiledClusters(scenario), slices: slicesOf(scenario) };
}

const NOTHING = { soiled: 0, slices: [] };

/** Resolves when the target has stopped there; it stays so until `resume` or a restart. */
async function stoppedAt({ target }: CrashScenario, at: StopAt): Promise<void> {
  const { gate } = target.engine();
  const stopped = new Promise<void>((resolve) => (gate.onStopped = () => resolve()));
  gate.stopAt(at);
  await stopped;
}

/** Somebody else takes the disk from the target. */
async function detach({ target, agent }: CrashScenario): Promise<void> {
  await using connection = new SpdkConnection({ path: target.socket, mayMutate: () => true });
  await until("it is connected", () => connection.connected);
  const [row] = agent().node.agent.rows.disks();
  await spdkClient(connection).bdevNvmeDetachController(row?.controllerName ?? "");
}

async function isBack({ target, agent }: CrashScenario): Promise<void> {
  const { rows, diskReadiness } = agent().node.agent;
  const isReady = () => [...rows.disks()].every((row) => diskReadiness(row).ready);
  await until("the disk is back", () => target.state().stores.size === 1 && isReady());
}

async function orphansOf({ client }: TestAgent): Promise<number> {
  const { orphans } = await call(client, client.listOrphans.bind(client), {
    pageSize: 0,
    pageToken: "",
  });
  return orphans.length;
}

describe("zeroing of free space", () => {
  it("leaves no old byte in a free cluster, and opens the disk to new volumes", async () => {
    await using scenario = await crashScenario({}, { env: BY_HAND });
    const { agent } = await soiled(scenario);
    const { disk } = await zeroFreeSpace(agent);
    expect(disk?.status?.lvstore?.freeSpace).toBe("FREE_SPACE_ZEROED");
    expect(await zeroed(scenario)).toEqual(NOTHING);
    await provision(agent, SMALL);
    expect(await orphansOf(agent)).toBe(0);
  });

  it("gives hosts that need clusters meanwhile clean ones, and lets other volumes be deleted", async () => {
    await using scenario = await crashScenario({}, { env: BY_HAND });
    const { used } = await soiled(scenario);
    await scenario.killAgent();
    const trusting = await scenario.start({ env: { STORAGE_NODE_ISOLATION: "trusted" } });
    await trusting.ready();
    const doomed = await provision(trusting, SMALL);
    await scenario.killAgent();
    const again = await scenario.start();
    await again.ready();
    await scenario.target.restart();
    await until("the limit of discards is back", async () => {
      const { client } = again;
      const { disks } = await call(client, client.listDisks.bind(client), {
        pageSize: 0,
        pageToken: "",
      });
      const conditions = disks[0]?.status?.conditions ?? [];
      const found = conditions.find(({ type }) => type === "DiscardZeroes");
      return found?.status === "CONDITION_STATUS_UNKNOWN";
    });
    const { gate } = scenario.target.engine();
    // The ninth slice: those of one cluster went at once.
    gate.addRule({ effect: "slow", method: "bdev_lvol_delete", nth: 9, ms: 3_000 });
    await zeroFreeSpace(again, 0n);
    await until("all free clusters are held", async () => {
      return (await diskOf(again)).zeroing !== undefined;
    });
    // Hosts have room meanwhile, all of it clean: half of what was zeroed first.
    expect(freeClusterCount(scenario)).toBeGreaterThan(50);
    expect(soiledClusters(scenario)).toBe(0);
    expect(await orphansOf(again)).toBe(0);
    expect((await refusal(provision(again, SMALL))).reason).toBe("FREE_SPACE_NOT_ZEROED");
    // A page of a new cluster; the rest of it shows what stood there.
    const uuid = (await getLvol(again, idOf(used))).status?.lvolUuid ?? "";
    expect(tag(scenario, uuid, 1)).toBe(true);
    expect(soiledClusters(scenario)).toBe(0);
    await remove(again, idOf(doomed), { force: true, reason: "test" });
    expect((await diskOf(again)).freeSpace).toBe("FREE_SPACE_UNKNOWN");
    expect(await zeroed(scenario)).toEqual(NOTHING);
  });

  it.each<StopAt>([
    { when: "before", method: "bdev_lvol_create", nth: 1 },
    { when: "after", method: "bdev_lvol_create", nth: 5 },
    { when: "before", method: "bdev_lvol_delete", nth: 1 },
    { when: "midway", method: "bdev_lvol_delete", nth: 2 },
    { when: "midway", method: "bdev_lvol_delete", nth: 12 },
    { when: "after", method: "bdev_lvol_delete", nth: 14 },
  ])("survives a kill of the target $when request $nth of $method", async (at) => {
    await using scenario = await crashScenario({}, { env: BY_HAND });
    const { agent } = await soiled(scenario);
    const stopped = stoppedAt(scenario, at);
    await zeroFreeSpace(agent, 0n);
    await stopped;
    await scenario.target.restart();
    expect(await zeroed(scenario)).toEqual(NOTHING);
  });

  it.each<StopAt>([
    { when: "before", method: "bdev_lvol_create", nth: 3 },
    { when: "after", method: "bdev_lvol_create", nth: 14 },
    { when: "midway", method: "bdev_lvol_delete", nth: 3 },
    { when: "after", method: "bdev_lvol_delete", nth: 12 },
  ])("survives a kill of the agent $when request $nth of $method", async (at) => {
    await using scenario = await crashScenario({}, { env: BY_HAND });
    const { agent } = await soiled(scenario);
    const stopped = stoppedAt(scenario, at);
    await zeroFreeSpace(agent, 0n);
    await stopped;
    await scenario.killAgent();
    scenario.target.resume();
    await (await scenario.start()).ready();
    expect(await zeroed(scenario)).toEqual(NOTHING);
  });

  it.each([
    ["few", "bdev_lvol_delete", 1, 8],
    ["many", "bdev_lvol_delete", 1, 1],
    // Between the end of the first slice and the filler: what that gets is not all zeroed.
    ["too many", "bdev_lvol_create", SLICES + 1, 1],
  ])(
    "leaves no old byte in what hosts can take from then on that take %s clusters meanwhile",
    async (_name, method, nth, everyMs) => {
      await using scenario = await crashScenario({}, { env: BY_HAND });
      const agent = await scenario.start();
      await agent.ready();
      const used = await provision(agent, { sizeBytes: BigInt(CLUSTERS * CLUSTER) });
      const { gate } = scenario.target.engine();
      await scenario.killAgent();
      await scenario.query("update disk set free_space = 'UNKNOWN'");
      soilFreeClusters(scenario, OLD);
      const next = await scenario.start();
      await next.ready();
      // Hosts take clusters of the reserve meanwhile.
      gate.addRule({ effect: "slow", method, nth, ms: 200 });
      await zeroFreeSpace(next, 0n);
      const lvol = scenario.target.state().lvol(used.status?.lvolUuid ?? "");
      if (lvol === undefined) throw new Error("no lvol");
      let taken = 0;
      const { rows } = next.node.agent;
      const isHeld = () => [...rows.disks()].every(({ zeroing }) => zeroing !== undefined);
      const writer = setInterval(() => {
        if (isHeld() || taken === CLUSTERS) return;
        try {
          writeLvol(lvol, taken * CLUSTER, Buffer.alloc(4_096, 1));
          taken += 1;
        } catch {
          // No cluster is free: the moment in which all are taken.
        }
      }, everyMs);
      await until("all free clusters are held", isHeld);
      clearInterval(writer);
      expect(taken).toBeGreaterThan(4);
      expect(soiledClusters(scenario)).toBe(0);
      expect(await zeroed(scenario)).toEqual(NOTHING);
    },
  );

  it("is begun by the agent itself, and again after each kill, unless it is to wait for a call", async () => {
    await using scenario = await crashScenario();
    await soil(scenario);
    const begun = stoppedAt(scenario, { when: "midway", method: "bdev_lvol_delete", nth: 5 });
    const agent = await scenario.start();
    await begun;
    await scenario.target.restart();
    await agent.ready();
    const again = stoppedAt(scenario, { when: "after", method: "bdev_lvol_delete", nth: 9 });
    await again;
    await scenario.killAgent();
    scenario.target.resume();
    await (await scenario.start()).ready();
    expect(await zeroed(scenario)).toEqual(NOTHING);
    await provision(scenario.agent(), SMALL);
  });

  it("in the background rests, but not once it was asked for", async () => {
    await using scenario = await crashScenario(
      {},
      { env: { STORAGE_NODE_ZEROING_SHARE: "1", STORAGE_NODE_ZEROING_HOLD: "never" } },
    );
    await soil(scenario);
    const { gate } = scenario.target.engine();
    gate.addRule({ effect: "slow", method: "bdev_lvol_delete", nth: 9, ms: 2_000 });
    const agent = await scenario.start();
    await agent.ready();
    await until("it rests", async () => {
      const { zeroing } = await diskOf(agent);
      return (zeroing?.zeroedBytes ?? 0n) > 0n;
    });
    expect((await diskOf(agent)).freeSpace).toBe("FREE_SPACE_UNKNOWN");
    const { disk } = await zeroFreeSpace(agent);
    expect(disk?.status?.lvstore?.freeSpace).toBe("FREE_SPACE_ZEROED");
    expect(await zeroed(scenario)).toEqual(NOTHING);
  });

  it("removes what an earlier run has left over, also if nobody asks for zeroing any more", async () => {
    await using scenario = await crashScenario({}, { env: BY_HAND });
    const { agent } = await soiled(scenario);
    const stopped = stoppedAt(scenario, { when: "after", method: "bdev_lvol_delete", nth: 10 });
    await zeroFreeSpace(agent, 0n);
    await stopped;
    await scenario.killAgent();
    scenario.target.resume();
    await scenario.query("update disk set zero_requested_time = null");
    expect(slicesOf(scenario)).not.toEqual([]);
    const next = await scenario.start();
    await next.ready();
    await until("no slice is left", () => slicesOf(scenario).length === 0);
    expect(await orphansOf(next)).toBe(0);
    expect((await diskOf(next)).freeSpace).toBe("FREE_SPACE_UNKNOWN");
    await zeroFreeSpace(next);
    expect(await zeroed(scenario)).toEqual(NOTHING);
  });

  it("does not take slices for deleted whose disk is gone", async () => {
    const env = { STORAGE_NODE_ZEROING_SHARE: "1", STORAGE_NODE_ZEROING_HOLD: "never" };
    // Nothing shows before the call is answered that the disk is gone.
    await using scenario = await crashScenario({ eventsMs: 2_000 }, { env });
    await soil(scenario);
    const { gate } = scenario.target.engine();
    gate.addRule({ effect: "slow", method: "bdev_lvol_delete", nth: 1, ms: 150, always: true });
    const agent = await scenario.start();
    await agent.ready();
    await until("it rests", async () => (await diskOf(agent)).zeroing !== undefined);
    gate.clear();
    expect(slicesOf(scenario)).toHaveLength(SLICES);
    await detach(scenario);
    const { disk } = await zeroFreeSpace(agent, 1n);
    expect(disk?.status?.lvstore?.freeSpace).toBe("FREE_SPACE_UNKNOWN");
    await isBack(scenario);
    expect(await zeroed(scenario)).toEqual(NOTHING);
  });

  it("begins anew after a delete that fails halfway, and removes what returns of it", async () => {
    await using scenario = await crashScenario({}, { env: BY_HAND });
    const { agent } = await soiled(scenario);
    const { gate } = scenario.target.engine();
    const busy = { code: -32_603, message: "Device or resource busy", half: true };
    gate.addRule({ effect: "fail", method: "bdev_lvol_delete", nth: 12, failure: busy });
    gate.resetCounts();
    await zeroFreeSpace(agent);
    await zeroed(scenario);
    // All that was free was held twice. One slice is in no list, and holds its clusters.
    expect(gate.counts["bdev_lvol_create"]).toBeGreaterThan(2 * SLICES);
    const free = freeClusterCount(scenario);
    await detach(scenario);
    await isBack(scenario);
    await until("it is removed", () => freeClusterCount(scenario) > free);
    expect(await zeroed(scenario)).toEqual(NOTHING);
  });
});
