// I/O counters in the metrics: whose, by the setting STORAGE_NODE_METRICS_IOSTAT, and what a scrape asks
// of the target.
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { readConfig } from "../../src/config.ts";
import { SimulatedHost } from "../../src/sim/host/simulated-host.ts";
import { startTelemetry } from "../../src/telemetry/telemetry.ts";
import { startAgent, until, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { inProcessTarget, type InProcessTarget } from "../support/in-process-target.ts";
import { IostatStream } from "../support/iostat-stream.ts";
import { OverheardRequests } from "../support/overheard-requests.ts";
import { scrape, valueOf } from "../support/scrape.ts";
import { SocketProxy } from "../support/socket-proxy.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { HOST, idOf, provision, remove } from "../support/volumes.ts";

const PAGE = 4_096;
const SIZE = { sizeBytes: 64n * 1024n ** 2n };

let stack: AsyncDisposableStack;
let target: InProcessTarget;
const heard = new OverheardRequests();

beforeEach(async () => {
  stack = new AsyncDisposableStack();
  target = stack.use(await inProcessTarget({ disks: 2 }));
});

afterEach(async () => await stack.disposeAsync());

async function agentWith(env: Readonly<Record<string, string>>): Promise<TestAgent> {
  const { telemetry: config } = readConfig({ DATABASE_URL: "postgresql:///x" });
  const named = { nodeId: "node-1", fleet: "test", version: "0" };
  const telemetry = stack.use(startTelemetry(config, named));
  const database = stack.use(await testDatabase());
  const folder = stack.use(await temporaryFolder());
  const socket = join(folder.path, "s");
  stack.use(await SocketProxy.open(socket, target.socket, heard.overhear));
  const place = { url: database.url, target: { socket, fabricDisks: target.fabricDisks } };
  const agent = stack.use(await startAgent(place, env, { telemetry }));
  await agent.ready();
  return agent;
}

/** A volume to which a host has written three pages. */
async function usedVolume(
  agent: TestAgent,
): Promise<{ readonly id: string; readonly disk: string }> {
  const lvol = await provision(agent, SIZE);
  const { nqn = "", diskId = "" } = lvol.status ?? {};
  const address = { traddr: "127.0.0.1", trsvcid: "4440" };
  const times = { reconnectDelayMs: 20, ctrlLossTmoMs: 60_000 };
  const { fabric } = target;
  const host = new SimulatedHost({ fabric, host: HOST, nqn, address, ...times });
  host.start();
  await host.until(() => host.device !== undefined);
  await host.write(0, Buffer.alloc(2 * PAGE, 1));
  await host.write(PAGE, Buffer.alloc(PAGE, 2));
  host.stop();
  return { id: idOf(lvol), disk: diskId };
}

/** Requests for counters since the last look. */
const asked = () =>
  heard.take().flatMap(({ method, params }) => (method === "bdev_get_iostat" ? [params] : []));

/** Names of all series of I/O counters. */
const countersIn = async (agent: TestAgent) =>
  [...(await scrape(agent)).keys()].filter((name) => name.includes("_io_"));

describe("a scrape", () => {
  it("has the counters of the disks, and asks for these alone", async () => {
    const agent = await agentWith({});
    const { id, disk } = await usedVolume(agent);
    heard.take();
    const samples = await scrape(agent);
    const [first] = asked();
    expect(first?.["names"]).toHaveLength(2);
    const written = { disk, operation: "write" };
    expect(valueOf(samples, "storagenode_disk_io_bytes_total", written)).toBe(3 * PAGE);
    expect(valueOf(samples, "storagenode_disk_io_operations_total", written)).toBe(2);
    const seconds = valueOf(samples, "storagenode_disk_io_seconds_total", written);
    // Two writes to a disk that takes 80 us for each.
    expect(seconds).toBeGreaterThan(160e-6);
    expect(seconds).toBeLessThan(1e-3);
    expect([...samples.keys()].filter((name) => name.includes(id))).toEqual([]);
  });

  it("has those of volumes, too, if that is set, and forgets a deleted volume", async () => {
    const agent = await agentWith({ STORAGE_NODE_METRICS_IOSTAT: "volumes" });
    const { id: lvol, disk } = await usedVolume(agent);
    const written = { lvol, disk, operation: "write" };
    const bytes = async () =>
      valueOf(await scrape(agent), "storagenode_lvol_io_bytes_total", written);
    expect(await bytes()).toBe(3 * PAGE);
    await remove(agent, lvol);
    const samples = await scrape(agent);
    expect([...samples.keys()].filter((name) => name.includes(lvol))).toEqual([]);
  });

  it("asks nothing with the setting off", async () => {
    const agent = await agentWith({ STORAGE_NODE_METRICS_IOSTAT: "off" });
    heard.take();
    expect(await countersIn(agent)).toEqual([]);
    expect(asked()).toEqual([]);
  });

  it("asks nothing while the target is away, and has no old counters then", async () => {
    const agent = await agentWith({});
    expect(await countersIn(agent)).not.toEqual([]);
    await target.kill();
    await until("the agent knows", () =>
      agent.node.agent.components().some(({ name, ok }) => name === "target" && !ok),
    );
    heard.take();
    expect(await countersIn(agent)).toEqual([]);
    expect(asked()).toEqual([]);
  });

  it("shares what streams and other scrapes have just read", async () => {
    const agent = await agentWith({ STORAGE_NODE_METRICS_IOSTAT: "volumes" });
    await provision(agent, SIZE);
    heard.take();
    await Promise.all(Array.from({ length: 10 }, () => scrape(agent)));
    expect(asked()).toHaveLength(1);
    using stream = new IostatStream(agent, { includeDisks: true });
    const { iostats } = await stream.next("one");
    expect(iostats).toHaveLength(3);
    heard.take();
    expect(valueOf(await scrape(agent), "storagenode_iostat_readers")).toBe(1);
    const names = asked().map((params) => params["names"]);
    // Whatever was asked meanwhile was asked for the stream.
    for (const one of names) expect(one).toHaveLength(3);
  });
});
