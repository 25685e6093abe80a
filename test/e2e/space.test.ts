// How much of each disk is free: known to every answer soon after it changed, by whom ever; told to
// operators before hosts see an error; and kept to when volumes are placed.
import { describe, expect, it } from "vitest";
import { spdkClient, type SpdkClient } from "../../src/spdk/client.ts";
import { SpdkConnection } from "../../src/spdk/connection.ts";
import { SimulatedHost } from "../../src/sim/host/simulated-host.ts";
import { Provisioning, type Lvol } from "../../src/gen/storagenode/v1/lvol.ts";
import { call, refusal, until, type TestAgent } from "../support/agent.ts";
import { crashScenario, type CrashOptions, type CrashScenario } from "../support/crash-scenario.ts";
import { OverheardRequests } from "../support/overheard-requests.ts";
import { deleteSnapshot, takeSnapshot } from "../support/snapshots.ts";
import { getLvol, HOST, idOf, provision, remove, stateOf } from "../support/volumes.ts";

const MIB = 1024 ** 2;
const CLUSTER = 4 * MIB;
/** About 64 clusters. */
const DISK_BYTES = 256 * MIB;
const THICK = Provisioning.PROVISIONING_THICK;
const size = (clusters: number) => BigInt(clusters * CLUSTER);

type Scenario = AsyncDisposable & {
  readonly scenario: CrashScenario;
  readonly agent: TestAgent;
  /** What is done with it is done behind the agent's back. */
  readonly spdk: SpdkClient;
  readonly host: (lvol: Lvol) => Promise<SimulatedHost>;
};

async function start(
  { disks = 1, eventsMs = 20 }: { readonly disks?: number; readonly eventsMs?: number } = {},
  options: CrashOptions = {},
): Promise<Scenario> {
  await using stack = new AsyncDisposableStack();
  const target = { disks, diskBytes: DISK_BYTES };
  const scenario = stack.use(await crashScenario({ eventsMs }, { ...options, target }));
  const agent = await scenario.start();
  await agent.ready();
  const path = scenario.target.socket;
  const connection = stack.use(new SpdkConnection({ path, mayMutate: () => true }));
  await until("the test is connected to the target", () => connection.connected);
  const owned = stack.move();
  const host = async ({ status }: Lvol) => {
    const one = new SimulatedHost({
      fabric: scenario.target.fabric,
      host: HOST,
      nqn: status?.nqn ?? "",
      address: { traddr: "127.0.0.1", trsvcid: "4440" },
      reconnectDelayMs: 20,
      ctrlLossTmoMs: 60_000,
    });
    owned.defer(() => one.stop());
    one.start();
    await one.until(() => one.device !== undefined);
    return one;
  };
  const dispose = () => owned.disposeAsync();
  return { scenario, agent, host, spdk: spdkClient(connection), [Symbol.asyncDispose]: dispose };
}

/** Writes to as many clusters of a volume, one block each, from the given one on. */
async function write(host: SimulatedHost, first: number, clusters: number): Promise<void> {
  for (let index = first; index < first + clusters; index += 1) {
    expect(await host.write(index * CLUSTER, Buffer.alloc(4_096, 7))).toMatchObject({ ok: true });
  }
}

async function disk({ agent: { node, client } }: Pick<Scenario, "agent">, index = 0) {
  const diskId = [...node.agent.rows.disks()][index]?.id ?? "";
  const { disk: shown } = await call(client, client.getDisk.bind(client), { diskId });
  const store = shown?.status?.lvstore;
  const low = shown?.status?.conditions.find(({ type }) => type === "SpaceLow");
  if (store === undefined) throw new Error("no lvstore");
  return { ...store, diskId, low: low?.reason, message: low?.message };
}

async function freeOnTarget({ spdk }: Scenario, uuid: string): Promise<bigint> {
  return (await spdk.getLvstore({ uuid }))?.freeBytes ?? -1n;
}

/** Makes a thick lvol behind the agent's back. */
function fill({ spdk }: Scenario, lvsUuid: string, clusters: number): Promise<string> {
  const sizeBytes = size(clusters);
  const lvolName = `by-hand-${clusters}`;
  return spdk.bdevLvolCreate({ lvsUuid, lvolName, sizeBytes, thin: false, clearMethod: "none" });
}

const level = async (on: Scenario) => (await disk(on)).low ?? "Ok";

describe("free space", () => {
  it("is right after creates, deletes, hosts' writes, and what others do on the target", async () => {
    await using on = await start();
    const { uuid, totalBytes, freeBytes } = await disk(on);
    expect(freeBytes).toBe(totalBytes);
    const isRight = async (clusters: number) => {
      const allocated = size(clusters);
      await until(`${clusters} clusters are allocated`, async () => {
        const shown = await disk(on);
        return shown.allocatedBytes === allocated && shown.freeBytes === totalBytes - allocated;
      });
      expect(await freeOnTarget(on, uuid)).toBe(totalBytes - allocated);
      const { client } = on.agent;
      const { capacity } = await call(client, client.getNode.bind(client), {});
      expect(capacity).toMatchObject({
        freeBytes: totalBytes - allocated,
        allocatedBytes: allocated,
      });
    };
    const thick = await provision(on.agent, { sizeBytes: size(5), provisioning: THICK });
    await isRight(5);
    const thin = await provision(on.agent, { sizeBytes: size(20) });
    const host = await on.host(thin);
    await write(host, 0, 3);
    await isRight(8);
    await remove(on.agent, idOf(thick));
    await isRight(3);
    await fill(on, uuid, 2);
    await isRight(5);
    await write(host, 3, 1);
    await isRight(6);
  });

  it("says what snapshots hold of what is allocated, and keeps counting what hosts write on", async () => {
    await using on = await start();
    const thin = await provision(on.agent, { sizeBytes: size(10) });
    const host = await on.host(thin);
    await write(host, 0, 3);
    const snapshot = await takeSnapshot(on.agent, idOf(thin));
    await write(host, 0, 2);
    await until("both are known", async () => {
      const { allocatedBytes, snapshotBytes } = await disk(on);
      return allocatedBytes === size(5) && snapshotBytes === size(3);
    });
    const { client } = on.agent;
    const { capacity } = await call(client, client.getNode.bind(client), {});
    expect(capacity).toMatchObject({ allocatedBytes: size(5), snapshotBytes: size(3) });
    await deleteSnapshot(on.agent, snapshot.meta?.id ?? "");
    await until("the snapshot is merged", async () => {
      const { allocatedBytes, snapshotBytes } = await disk(on);
      return allocatedBytes === size(3) && snapshotBytes === 0n;
    });
  });

  it("is asked for once after many changes, and not while nothing happens", async () => {
    const heard = new OverheardRequests();
    await using on = await start({}, { overhear: heard.overhear });
    const reads = (requests: ReturnType<typeof heard.take>) =>
      requests.filter(({ method }) => method === "bdev_lvol_get_lvstores").length;
    const polls = async (count: number) => {
      heard.take();
      const all: ReturnType<typeof heard.take>[number][] = [];
      await until("the target was polled", () => {
        all.push(...heard.take());
        return all.filter(({ method }) => method === "nvmf_get_stats").length >= count;
      });
      return all;
    };
    const thin = await provision(on.agent, { sizeBytes: size(20) });
    const host = await on.host(thin);
    await write(host, 0, 1);
    await polls(5);
    // A host that is connected and idle costs nothing either.
    expect(reads(await polls(10))).toBe(0);
    const { revision } = on.agent.node.agent.rows.node ?? { revision: 0n };
    await host.read(0, 4_096);
    expect(reads(await polls(10))).toBe(1);
    expect(on.agent.node.agent.rows.node?.revision).toBe(revision);
    heard.take();
    const some = Array.from({ length: 20 }, () => provision(on.agent, { sizeBytes: size(1) }));
    await Promise.all(some);
    const asked = heard.take();
    const pollsMade = asked.filter(({ method }) => method === "nvmf_get_stats").length;
    expect(reads(asked)).toBeLessThanOrEqual(pollsMade);
    expect(reads(await polls(10))).toBeLessThanOrEqual(2);
  });

  it("is as recorded while the target is away, and read again when it is back", async () => {
    await using on = await start();
    const thin = await provision(on.agent, { sizeBytes: size(40) });
    const host = await on.host(thin);
    await write(host, 0, 20);
    await until("it is known", async () => (await disk(on)).allocatedBytes === size(20));
    await until("it is recorded", () => {
      const [row] = on.agent.node.agent.rows.disks();
      return row !== undefined && (row.totalClusters ?? 0n) - (row.freeClusters ?? 0n) === 20n;
    });
    await on.scenario.target.kill();
    await until("the agent knows", () => !on.agent.node.agent.ready());
    expect((await disk(on)).allocatedBytes).toBe(size(20));
    await on.scenario.target.restart();
    await on.agent.ready();
    await host.until(() => host.state === "live");
    await write(host, 20, 1);
    await until("it is known", async () => (await disk(on)).allocatedBytes === size(21));
  });
});

describe("SpaceLow", () => {
  it("is shown on disk and volume before a host's write fails, and ends later than it began", async () => {
    await using on = await start();
    const total = Number((await disk(on)).totalBytes) / CLUSTER;
    const thick = await provision(on.agent, { sizeBytes: size(4), provisioning: THICK });
    const thin = await provision(on.agent, { sizeBytes: size(total) });
    const host = await on.host(thin);
    /** Clusters of the thin volume at which so many percent of the disk are free. */
    const at = (percent: number) => total - 4 - Math.ceil((total * percent) / 100);
    await write(host, 0, at(20));
    await until("it is written", async () => {
      return (await disk(on)).allocatedBytes === size(at(20) + 4);
    });
    expect(await level(on)).toBe("Ok");
    await write(host, at(20), 1);
    await until("the disk is low", async () => (await level(on)) === "Low");
    await write(host, at(20) + 1, at(10) - at(20));
    await until("it is critical", async () => (await level(on)) === "Critical");
    const conditions = async (lvol: Lvol) =>
      (await getLvol(on.agent, idOf(lvol))).status?.conditions.find(
        ({ type }) => type === "SpaceLow",
      );
    expect((await conditions(thin))?.reason).toBe("Critical");
    // It has all of its clusters.
    expect(await conditions(thick)).toBeUndefined();
    await write(host, at(10) + 1, total - 4 - at(10) - 1);
    await until("it is full", async () => (await level(on)) === "Full");
    expect((await disk(on)).message).toContain("writes to thin volumes fail");
    expect(host.counters.errors).toBe(0);
    expect(await host.write((total - 1) * CLUSTER, Buffer.alloc(4_096, 7))).toMatchObject({
      ok: false,
    });
    expect((await conditions(thin))?.reason).toBe("Full");
    await remove(on.agent, idOf(thick));
    // 4 of 63 clusters are free.
    await until("it is not full", async () => (await level(on)) === "Critical");
    expect(await host.write((total - 1) * CLUSTER, Buffer.alloc(4_096, 7))).toMatchObject({
      ok: true,
    });
    host.stop();
    await remove(on.agent, idOf(thin), { force: true, reason: "test" });
    await until("it is empty", async () => (await level(on)) === "Ok");
  });

  it("is kept by a restart of the agent within its hysteresis", async () => {
    await using on = await start();
    const total = Number((await disk(on)).totalBytes) / CLUSTER;
    const low = total - Math.ceil((total * 20) / 100) + 1;
    const one = await provision(on.agent, { sizeBytes: size(low - 1), provisioning: THICK });
    const two = await provision(on.agent, { sizeBytes: size(1), provisioning: THICK });
    await until("the disk is low", async () => (await level(on)) === "Low");
    // 20 % and a little more are free again.
    await remove(on.agent, idOf(two));
    await until("it is deleted", async () => (await disk(on)).allocatedBytes === size(low - 1));
    expect(await level(on)).toBe("Low");
    await on.scenario.killAgent();
    const agent = await on.scenario.start();
    await agent.ready();
    expect((await disk({ agent })).low).toBe("Low");
    await remove(agent, idOf(one));
    await until("it is empty", async () => (await disk({ agent })).low === undefined);
  });
});

describe("ProvisionLvol", () => {
  it("places nothing on a disk whose clusters an orphan has", async () => {
    await using on = await start({ disks: 2 });
    const [a, b] = [await disk(on, 0), await disk(on, 1)];
    const clusters = Number(a.freeBytes) / CLUSTER;
    // The other disk has promised more, so by promises alone the full one would be preferred.
    const sizeBytes = size(clusters - 10);
    await provision(on.agent, { sizeBytes, diskId: b.diskId, provisioning: THICK });
    await fill(on, a.uuid, clusters);
    await until("it is full", async () => (await disk(on, 0)).low === "Full");
    const placed = await provision(on.agent, { sizeBytes: size(1) });
    expect(placed.status?.diskId).toBe(b.diskId);
    const asked = { sizeBytes: size(1), diskId: a.diskId };
    const refused = await refusal(provision(on.agent, asked));
    expect(refused).toMatchObject({ code: 8, reason: "NO_CAPACITY" });
    expect(refused.message).toContain("0 free");
    await fill(on, b.uuid, 10);
    await until("the other is full", async () => (await disk(on, 1)).low === "Full");
    const nowhere = await refusal(provision(on.agent, { sizeBytes: size(1) }));
    expect(nowhere).toMatchObject({ code: 8, reason: "NO_DISK_FITS" });
  });

  it("reads a disk again that seems to be full, before it is refused", async () => {
    // As good as no events: the agent is not told that the orphan is gone.
    await using on = await start({ eventsMs: 600_000 });
    const { uuid, freeBytes, diskId } = await disk(on);
    const name = await fill(on, uuid, Number(freeBytes) / CLUSTER);
    on.scenario.loseConnection();
    await until("it is full", async () => (await level(on)) === "Full");
    await on.agent.ready();
    const asked = { sizeBytes: size(1), diskId };
    expect((await refusal(provision(on.agent, asked))).reason).toBe("NO_CAPACITY");
    await on.spdk.bdevLvolDelete({ lvsUuid: uuid, name });
    expect(stateOf(await provision(on.agent, asked))).toBe("LVOL_STATE_UP");
  });

  it("is refused on a disk that hosts have filled, and accepted right after a Delete", async () => {
    await using on = await start({ eventsMs: 20 });
    const total = Number((await disk(on)).totalBytes) / CLUSTER;
    const other = await provision(on.agent, { sizeBytes: size(2), provisioning: THICK });
    const thin = await provision(on.agent, { sizeBytes: size(total) });
    await write(await on.host(thin), 0, total - 2);
    await until("it is full", async () => (await level(on)) === "Full");
    const small = { sizeBytes: size(1) };
    expect((await refusal(provision(on.agent, small))).reason).toBe("NO_DISK_FITS");
    await remove(on.agent, idOf(other));
    expect(stateOf(await provision(on.agent, small))).toBe("LVOL_STATE_UP");
  });
});
