// Cost of streams of I/O counters: of many that read a volume each, and of one more with a filter that
// others have already.
import { credentials } from "@grpc/grpc-js";
import { setTimeout as sleep } from "node:timers/promises";
import {
  StorageNodeClient,
  type StreamIostatRequest,
} from "../../src/gen/storagenode/v1/storage_node.ts";
import { until } from "../support/agent.ts";
import type { BenchNode } from "./bench-node.ts";
import { spread } from "./measure.ts";
import type { Row } from "./row.ts";

/** Streams on one connection. */
const PER_CONNECTION = 100;
/** Volumes in the filter that many readers share. */
const SHARED = 10;
const INTERVAL = { seconds: 1n, nanos: 0 };

export const streamIostatRow: Row = {
  name: "stream-iostat",
  async run({ sizes, startNode }) {
    await using node = await startNode({ counted: true });
    await node.fillTo(sizes.volumes);
    const ids = (await node.volumes()).slice(0, sizes.volumes).map(({ id }) => id);
    // What making the volumes has caused is over.
    await sleep(Math.min(12_000, sizes.idleSeconds * 1_000));
    const seconds = Math.max(2, sizes.idleSeconds / 6);
    const own = ids.map((id) => ({ lvolIds: [id] }));
    const idle = await costOf(node, [], seconds);
    const each = await costOf(node, own, seconds);
    const shared = { lvolIds: ids.slice(0, SHARED) };
    const few = await costOf(
      node,
      Array.from({ length: ids.length / 10 }, () => shared),
      seconds,
    );
    const many = await costOf(
      node,
      Array.from({ length: ids.length }, () => shared),
      seconds,
    );
    const readers = ids.length - Math.floor(ids.length / 10);
    const one = (value: number) => spread([value]);
    const atMost = (value: number) => ({ kind: "at most" as const, value });
    const what = `${ids.length} streams x 1 s, a volume each`;
    return {
      lines: [
        { what: `${what}: core used`, unit: "%", ours: one(each.percent), goal: atMost(15) },
        {
          what: `${what}: calls to the target per sample`,
          unit: "calls",
          ours: one(each.calls / each.samples),
          goal: atMost(1.1),
        },
        {
          what: "one more stream of a filter that others have, per second",
          unit: "ms",
          ours: one((10 * (many.percent - few.percent)) / readers),
          goal: atMost(0.1),
        },
      ],
      notes: [
        `core used without streams ${idle.percent.toFixed(2)} %, with ${ids.length} of one filter ` +
          `of ${SHARED} volumes ${many.percent.toFixed(2)} %; the client shares the cores`,
      ],
      raw: { idle, each, few, many, seconds },
    };
  },
};

type Cost = {
  readonly percent: number;
  readonly calls: number;
  /** Frames of one stream. */
  readonly samples: number;
};

/** The share of a core that the agent uses while the streams read, without their beginning and end. */
async function costOf(
  node: BenchNode,
  requests: readonly Pick<StreamIostatRequest, "lvolIds">[],
  forSeconds: number,
): Promise<Cost> {
  const { agent } = node;
  const clients = Array.from({ length: Math.ceil(requests.length / PER_CONNECTION) }, () => {
    return new StorageNodeClient(agent.address, credentials.createInsecure(), {
      // Otherwise all clients share one connection.
      "grpc.use_local_subchannel_pool": 1,
    });
  });
  const frames = requests.map(() => 0);
  const calls = requests.map((request, index) => {
    const client = clients[Math.floor(index / PER_CONNECTION)] ?? agent.client;
    const all = { diskIds: [], includeDisks: false, interval: INTERVAL };
    const call = client.streamIostat({ ...all, ...request });
    call.on("error", () => {});
    call.on("data", () => (frames[index] = (frames[index] ?? 0) + 1));
    return call;
  });
  await until("each stream has its second frame", () => frames.every((count) => count >= 2));
  const [cpuMs, startMs, before] = [agent.cpuMs(), performance.now(), frames[0] ?? 0];
  node.proxies.reset();
  await sleep(forSeconds * 1_000);
  const percent = (100 * (agent.cpuMs() - cpuMs)) / (performance.now() - startMs);
  const { calls: asked } = node.proxies.counts();
  const samples = (frames[0] ?? 0) - before;
  for (const call of calls) call.cancel();
  for (const client of clients) client.close();
  const both = (asked["bdev_get_iostat"] ?? 0) + (asked["bdev_get_iostat()"] ?? 0);
  return { percent, calls: both, samples };
}
