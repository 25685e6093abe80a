// Exact cost of operations: SPDK calls and their bytes, SQL statements and commits. The numbers do
// not depend on the machine, so a change that makes the agent do more fails here.
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readConfig } from "../../src/config.ts";
import type { StreamIostatRequest } from "../../src/gen/storagenode/v1/storage_node.ts";
import { lvolState } from "../../src/model/lvol-state.ts";
import { startTelemetry, type Telemetry } from "../../src/telemetry/telemetry.ts";
import { call, startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { IostatStream } from "../support/iostat-stream.ts";
import { scrape, valueOf, type Samples } from "../support/scrape.ts";
import { OverheardRequests, type Request } from "../support/overheard-requests.ts";
import { SocketProxy } from "../support/socket-proxy.ts";
import { REAL_SOCKET, startTarget, type TestTarget } from "../support/target.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { GIB, HOST, idOf, provision, remove, resize, update, WAIT } from "../support/volumes.ts";

/** Ten times as fast as the defaults: the idle minute takes six seconds. */
const TIMING = { eventsMs: 200, leaseTermMs: 3_000, healthMs: 6_000 };
const DISCOVERY = "nqn.2014-08.org.nvmexpress.discovery";
const POLLS = ["notify_get_notifications", "nvmf_get_stats"];
const HEALTH = "bdev_nvme_get_controller_health_info";
const STORE_READ = "bdev_lvol_get_lvstores";
const isPoll = (method: unknown) => [...POLLS, HEALTH].some((poll) => poll === method);

let stack: AsyncDisposableStack;
let telemetry: Telemetry;
let target: TestTarget;
const heard = new OverheardRequests();
let agent: TestAgent;
const diskCount = () => [...agent.node.agent.rows.disks()].length;

beforeAll(async () => {
  stack = new AsyncDisposableStack();
  const { telemetry: config } = readConfig({ DATABASE_URL: "postgresql:///x" });
  telemetry = startTelemetry(config, { nodeId: "node-1", fleet: "test", version: "0" });
  stack.use(telemetry);
  target = stack.use(await startTarget());
  const database = stack.use(await testDatabase());
  const folder = stack.use(await temporaryFolder());
  const path = join(folder.path, "spdk.sock");
  stack.use(await SocketProxy.open(path, target.socket, heard.overhear));
  const parts = { url: database.url, timing: TIMING };
  const through = { socket: path, fabricDisks: target.fabricDisks };
  agent = stack.use(await startAgent({ ...parts, target: through }, {}, { telemetry }));
  await agent.ready();
  await until("the disks were looked at, which is recorded once an hour", () =>
    [...agent.node.agent.rows.disks()].every(({ healthTime }) => healthTime !== undefined),
  );
  // The first provision and delete cost more: identities are read and statements are prepared.
  await remove(agent, idOf(await provision(agent)));
});

afterAll(async () => await stack.disposeAsync());

type Cost = {
  readonly calls: Readonly<Record<string, number>>;
  readonly bytes: number;
  readonly statements: number;
  readonly commits: number;
};

/**
 * The cost of `act` without the periodic work: event polls, reads of free clusters and of health, and lease
 * renewals are not counted. storeReads: of a store, by the act itself.
 */
async function costOf(act: () => Promise<unknown>, storeReads = 0): Promise<Cost> {
  // A scrape reads I/O counters from the target.
  const before = await scrape(agent);
  heard.take();
  await act();
  await until("all is recorded", () => {
    const rows = [...agent.node.agent.rows.lvols()];
    return rows.every((row) => row.observedGeneration === row.generation);
  });
  const all = heard.take();
  const after = await scrape(agent);
  // With each poll, a store that was changed since is read once, whatever number of changes there were.
  const polls = all.filter(({ method }) => method === "nvmf_get_stats").length;
  const reads = all.filter(({ method }) => method === STORE_READ).length;
  expect(reads).toBeLessThanOrEqual((polls + 1) * diskCount() + storeReads);
  expect(reads).toBeGreaterThanOrEqual(storeReads);
  const requests = all.filter(({ method }) => !isPoll(method) && method !== STORE_READ);
  return {
    calls: tally(requests),
    bytes: requests.reduce((sum, { bytes }) => sum + bytes, 0),
    ...writes(before, after),
  };
}

/** What the target receives until it was polled that often. */
async function requestsOfPolls(count: number): Promise<readonly Request[]> {
  heard.take();
  const all: Request[] = [];
  await until("the target was polled", () => {
    all.push(...heard.take());
    return all.filter(({ method }) => method === "nvmf_get_stats").length >= count;
  });
  return all;
}

function writes(before: Samples, after: Samples) {
  const rise = (name: string) => valueOf(after, name) - valueOf(before, name);
  return {
    statements: rise("db_client_operation_duration_seconds_count"),
    commits: rise("storagenode_commit_duration_seconds_count"),
  };
}

function tally(requests: readonly Request[]): Readonly<Record<string, number>> {
  const counts = new Map<string, number>();
  for (const { method } of requests) counts.set(method, (counts.get(method) ?? 0) + 1);
  return Object.fromEntries(counts);
}

const PER_VOLUME = {
  bdev_lvol_create: 1,
  nvmf_create_subsystem: 1,
  nvmf_subsystem_add_host: 1,
  nvmf_subsystem_add_listener: 1,
  nvmf_subsystem_add_ns: 1,
};

const times = (counts: Readonly<Record<string, number>>, by: number) =>
  Object.fromEntries(Object.entries(counts).map(([method, count]) => [method, count * by]));

const PROVISION = { calls: PER_VOLUME, bytes: 1_255, statements: 15, commits: 3 };

describe("a volume", () => {
  it("costs five calls and three commits to provision, of which the caller waits for two", async () => {
    expect(await costOf(() => provision(agent))).toEqual(PROVISION);
  });

  it("costs the same with two hundred volumes on the node", async () => {
    await Promise.all(Array.from({ length: 200 }, () => provision(agent)));
    expect(await costOf(() => provision(agent))).toEqual(PROVISION);
  });

  it("shares its commits with the others of a burst", async () => {
    const cost = await costOf(() =>
      Promise.all(Array.from({ length: 100 }, () => provision(agent))),
    );
    expect(cost.calls).toEqual(times(PER_VOLUME, 100));
    expect(cost.bytes).toBe(100 * PROVISION.bytes);
    expect(cost.commits).toBeLessThan(20);
    expect(cost.statements).toBeLessThan(20 * 6);
  });

  it("costs no call and one commit when a provision is repeated", async () => {
    const id = idOf(await provision(agent));
    const again = await costOf(() => provision(agent, {}, { id }));
    expect(again).toEqual({ calls: {}, bytes: 0, statements: 3, commits: 1 });
  });

  it("costs one call and two commits to allow a host", async () => {
    const lvolId = idOf(await provision(agent));
    const { client } = agent;
    const hostNqn = `${HOST.slice(0, -1)}2`;
    const request = { lvolId, hostNqn, waitTimeout: WAIT };
    const cost = await costOf(() => call(client, client.allowHost.bind(client), request));
    const calls = { nvmf_subsystem_add_host: 1 };
    expect(cost).toEqual({ calls, bytes: 220, statements: 8, commits: 2 });
  });

  it("costs one change and three reads to grow, and two commits", async () => {
    const id = idOf(await provision(agent));
    const cost = await costOf(() => resize(agent, id, 2n * GIB));
    const calls = {
      bdev_lvol_resize: 1,
      // Before, so that nothing is cut off, and after.
      bdev_get_bdevs: 2,
      nvmf_get_subsystems: 1,
    };
    expect(cost).toEqual({ calls, bytes: 477, statements: 9, commits: 2 });
  });

  it("costs one change, one read and two commits to limit, and nothing for the same limits", async () => {
    const id = idOf(await provision(agent));
    const none = { rwIops: 0n, rwMibPerSecond: 0n, readMibPerSecond: 0n, writeMibPerSecond: 0n };
    const limit = () => update(agent, id, { qos: { ...none, rwIops: 5_000n } });
    const cost = await costOf(limit);
    const calls = { bdev_set_qos_limit: 1, bdev_get_bdevs: 1 };
    expect(cost).toEqual({ calls, bytes: 302, statements: 8, commits: 2 });
    expect((await costOf(limit)).calls).toEqual({});
    await update(agent, id, { qos: none });
  });

  it("costs three changes to delete, and reads of the bdev, its store and connected hosts", async () => {
    const id = idOf(await provision(agent));
    const cost = await costOf(() => remove(agent, id), 1);
    const calls = {
      bdev_get_bdevs: 1,
      bdev_lvol_delete: 1,
      nvmf_delete_subsystem: 1,
      nvmf_subsystem_get_controllers: 3,
      nvmf_subsystem_remove_listener: 1,
    };
    expect(cost).toEqual({ calls, bytes: 1038, statements: 13, commits: 3 });
  });
});

describe("a minute in which nothing happens", () => {
  it("costs sixty small polls of the target and a health page of each disk; besides lease renewals no statement or full list", async () => {
    await until("free clusters were read since the last change", async () => {
      return !(await requestsOfPolls(3)).some(({ method }) => method === STORE_READ);
    });
    // The minute begins between the pages of two disks, so that those of both are not read at its begin and its end.
    await until("no page was read for a while", async () => {
      return !(await requestsOfPolls(7)).some(({ method }) => method === HEALTH);
    });
    const before = await scrape(agent);
    heard.take();
    const polls = await requestsOfPolls(30);
    const after = await scrape(agent);
    const { [HEALTH]: pages, ...others } = tally(polls);
    expect(new Set(Object.keys(others))).toEqual(new Set(POLLS));
    // One of each controller; the polls of the minute may lie around one more, or one less, of both.
    const disks = diskCount();
    expect([disks - 1, disks, disks + 1]).toContain(pages);
    expect(writes(before, after)).toEqual({ statements: 0, commits: 0 });
    expect(valueOf(after, "storagenode_spdk_dumps_total")).toBe(
      valueOf(before, "storagenode_spdk_dumps_total"),
    );
  });
});

describe("readers of I/O counters", () => {
  const present = () =>
    [...agent.node.agent.rows.lvols()].filter(({ deleteTime }) => deleteTime === undefined);

  beforeAll(async () => {
    const missing = Math.max(0, 50 - present().length);
    await Promise.all(Array.from({ length: missing }, () => provision(agent)));
  });

  /** Reads until each stream has five frames. Returns how many samples all had, and the calls for them. */
  async function readersOf(requests: readonly Partial<StreamIostatRequest>[]) {
    heard.take();
    const streams = requests.map((request) => new IostatStream(agent, request));
    await until("each has five frames", () => streams.every(({ frames }) => frames.length >= 5));
    const asked = heard.take().filter(({ method }) => method === "bdev_get_iostat");
    const times = streams.flatMap(({ frames }) => frames.map(({ time }) => time?.getTime()));
    for (const stream of streams) stream[Symbol.dispose]();
    await until("nobody reads", () => agent.node.agent.iostat.readers === 0);
    return { samples: new Set(times).size, asked };
  }

  it.each([1, 50])("%i with as many filters cost one call for each sample", async (readers) => {
    const filters = present()
      .slice(0, readers)
      .map(({ id }) => ({ lvolIds: [id] }));
    const { samples, asked } = await readersOf(filters);
    // The last one may not have reached the readers yet.
    expect([samples, samples + 1]).toContain(asked.length);
    const names = asked.at(-1)?.params["names"];
    expect(names).toHaveLength(readers);
  });

  it("of one filter and of all volumes cost one call for each sample together", async () => {
    const [disk] = [...agent.node.agent.rows.disks()];
    const all = Array.from({ length: 20 }, () => ({ includeDisks: true }));
    const { samples, asked } = await readersOf([...all, { diskIds: [disk?.id ?? ""] }]);
    expect([samples, samples + 1]).toContain(asked.length);
  });
});

describe.skipIf(REAL_SOCKET !== undefined)("volumes with connected hosts", () => {
  it("are exported again before the others", async () => {
    const rows = [...agent.node.agent.rows.lvols()].filter((row) => row.exported);
    // The newest volumes: without priority they are planned last.
    const used = rows.slice(-5);
    const control = await target.control();
    await Promise.all(used.map(({ nqn, hosts }) => control.connectHost(nqn, hosts[0] ?? "")));
    await control[Symbol.asyncDispose]();
    heard.take();
    const asked: string[] = [];
    await until("the agent read the connected hosts and continued with its polls", () => {
      asked.push(...heard.take().map(({ method }) => method));
      const last = asked.lastIndexOf("nvmf_subsystem_get_controllers");
      return last >= 0 && asked.slice(last).includes("nvmf_get_stats");
    });
    expect(asked.filter((method) => method.endsWith("controllers"))).toHaveLength(rows.length);
    await target.restart();
    await until("all volumes are back", () =>
      rows.every((row) => lvolState(agent.node.agent.view(row)) === "UP"),
    );
    const requests = heard.take();
    for (const method of ["nvmf_subsystem_add_listener", "nvmf_subsystem_add_ns"]) {
      const order = requests.filter(
        (request) => request.method === method && request.params["nqn"] !== DISCOVERY,
      );
      const first = order.slice(0, used.length).map(({ params }) => params["nqn"]);
      expect(new Set(first)).toEqual(new Set(used.map(({ nqn }) => nqn)));
    }
  });
});

describe.skipIf(REAL_SOCKET !== undefined)("a restart of the target", () => {
  it("costs four calls per volume, a few lists, and commits for its disks alone", async () => {
    const exported = [...agent.node.agent.rows.lvols()].filter((row) => row.exported);
    const volumes = exported.length;
    const cost = await costOf(async () => {
      await target.restart();
      await until("all volumes are back", () => {
        const rows = [...agent.node.agent.rows.lvols()].filter(({ exported }) => exported);
        return rows.every((row) => lvolState(agent.node.agent.view(row)) === "UP");
      });
    });
    const control = await target.control();
    // Counts of the new process only: the killed one lost its counts.
    const all = Object.entries(await control.counts());
    const counts: Record<string, number> = {};
    for (const [key, count] of all) {
      // Volumes may have changed before the restart: a store is read by uuid then, with the next poll.
      if (key === `${STORE_READ}(uuid)`) continue;
      const method = key.replace("()", "");
      if (!isPoll(method)) counts[method] = (counts[method] ?? 0) + count;
    }
    await control[Symbol.asyncDispose]();
    const {
      bdev_nvme_get_controllers: scans,
      bdev_get_bdevs,
      bdev_lvol_get_lvols,
      nvmf_get_subsystems,
      ...rest
    } = counts;
    // One list, and the discovery subsystem before its listener is added, and after that.
    expect([2, 3]).toContain(nvmf_get_subsystems);
    // Each full scan lists either bdevs or lvols: behind the proxy, which accepts before the target
    // does, the first scan uses the shorter list of lvols.
    const byName = new Map(all).get("bdev_get_bdevs") ?? 0;
    const full = (bdev_get_bdevs ?? 0) - byName + (bdev_lvol_get_lvols ?? 0);
    // One full scan before the disks are attached, and one or two after, depending on their timing.
    expect([2, 3]).toContain(full);
    // The disks alone are listed once more when the grace ends, which may be later, and read by name.
    const ofDisks = (scans ?? 0) - full;
    expect([0, 1]).toContain(ofDisks);
    expect(byName).toBeLessThanOrEqual(ofDisks * [...agent.node.agent.rows.disks()].length);
    expect(rest).toEqual({
      spdk_get_version: 1,
      bdev_lvol_get_lvstores: scans,
      // Which process it is.
      framework_get_reactors: 1,
      // That, too, and the scrape at the end.
      bdev_get_iostat: 2,
      nvmf_get_transports: 1,
      nvmf_create_transport: 1,
      bdev_nvme_attach_controller: 2,
      // One additional subsystem marks the target as owned by this node.
      nvmf_create_subsystem: volumes + 1,
      nvmf_subsystem_add_host: exported.reduce((sum, { hosts }) => sum + hosts.length, 0),
      // One more for discovery.
      nvmf_subsystem_add_listener: volumes + 1,
      nvmf_subsystem_add_ns: volumes,
    });
    // The process of the target, the pending ops of the attaches, and their ends.
    expect([2, 3, 4]).toContain(cost.commits);
    expect(cost.statements).toBe(4 * cost.commits);
  });
});
