// Cost of streams of I/O counters: of many that read a volume each, and of one more with a filter that
// others have already, beside a bare server that sends the same bytes as often.
import { credentials } from "@grpc/grpc-js";
import { setTimeout as sleep } from "node:timers/promises";
import {
  StorageNodeClient,
  StreamIostatResponse,
  type StreamIostatRequest,
} from "../../src/gen/storagenode/v1/storage_node.ts";
import { until } from "../support/agent.ts";
import { startEcho } from "./echo.ts";
import { spread } from "./measure.ts";
import type { Row } from "./row.ts";

/** Streams on one connection. */
const PER_CONNECTION = 100;
/** Volumes in the small filter that many readers share. */
const SHARED = 10;
const INTERVAL_MS = 1_000;
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
    const { agent } = node;
    const idle = await costOf(agent, [], seconds);
    const own = ids.map((id) => ({ lvolIds: [id] }));
    const each = await costOf(agent, own, seconds, () => node.proxies.reset());
    const { calls: asked } = node.proxies.counts();
    const calls = (asked["bdev_get_iostat"] ?? 0) + (asked["bdev_get_iostat()"] ?? 0);
    const what = `${ids.length} streams x 1 s, a volume each`;
    const few = await oneMore(agent, {
      lvolIds: ids.slice(0, SHARED),
      streams: ids.length,
      seconds,
    });
    const all = await oneMore(agent, { lvolIds: ids, streams: ids.length / 10, seconds });
    const one = (value: number) => spread([value]);
    const atMost = (value: number) => ({ kind: "at most" as const, value });
    const more = (volumes: number) =>
      `one more stream of a filter of ${volumes} volumes, per second`;
    return {
      lines: [
        { what: `${what}: core used`, unit: "%", ours: one(each.percent), goal: atMost(15) },
        {
          what: `${what}: calls to the target per sample`,
          unit: "calls",
          ours: one(calls / each.samples),
          goal: atMost(1.1),
        },
        {
          what: more(SHARED),
          unit: "ms",
          ours: one(few.ours),
          limit: one(few.limit),
          goal: atMost(0.1),
        },
        {
          what: more(ids.length),
          unit: "ms",
          ours: one(all.ours),
          limit: one(all.limit),
          ratio: one(all.ours / all.limit),
          goal: atMost(1.5),
        },
      ],
      notes: [
        `core used without streams ${idle.percent.toFixed(2)} %; the client shares the cores`,
      ],
      raw: { idle, each, few, all, seconds },
    };
  },
};

type Server = { readonly address: string; readonly cpuMs: () => number };

/** CPU time that one more stream of a filter costs per second, of the agent and of a bare server. */
async function oneMore(
  agent: Server,
  how: { readonly lvolIds: readonly string[]; readonly streams: number; readonly seconds: number },
) {
  const { lvolIds, streams, seconds } = how;
  const request = { lvolIds: [...lvolIds] };
  const ofMany = async (server: Server) => {
    const [few, many] = [Math.ceil(streams / 10), streams];
    const same = (count: number) => Array.from({ length: count }, () => request);
    const before = await costOf(server, same(few), seconds);
    const after = await costOf(server, same(many), seconds);
    return { bytes: after.bytes, ms: (10 * (after.percent - before.percent)) / (many - few) };
  };
  const { bytes, ms: ours } = await ofMany(agent);
  await using bare = await startEcho({ StreamIostat: { bytes, everyMs: INTERVAL_MS } });
  const { ms: limit } = await ofMany(bare);
  return { ours, limit, bytes: bytes.length, streams };
}

type Cost = {
  readonly percent: number;
  /** Frames of one stream. */
  readonly samples: number;
  /** The last frame of one stream. */
  readonly bytes: Uint8Array;
};

/** The share of a core that the server uses while the streams read, without their beginning and end. */
async function costOf(
  server: Server,
  requests: readonly Pick<StreamIostatRequest, "lvolIds">[],
  forSeconds: number,
  begin: () => void = () => {},
): Promise<Cost> {
  const clients = Array.from({ length: Math.ceil(requests.length / PER_CONNECTION) }, () => {
    return new StorageNodeClient(server.address, credentials.createInsecure(), {
      // Otherwise all clients share one connection.
      "grpc.use_local_subchannel_pool": 1,
    });
  });
  const frames = requests.map(() => 0);
  let last: StreamIostatResponse | undefined;
  const calls = requests.flatMap((request, index) => {
    const client = clients[Math.floor(index / PER_CONNECTION)];
    if (client === undefined) return [];
    const all = { diskIds: [], includeDisks: false, interval: INTERVAL };
    const call = client.streamIostat({ ...all, ...request });
    call.on("error", () => {});
    call.on("data", (message: StreamIostatResponse) => {
      last = message;
      frames[index] = (frames[index] ?? 0) + 1;
    });
    return [call];
  });
  await until("each stream has its second frame", () => frames.every((count) => count >= 2));
  begin();
  const [cpuMs, startMs, before] = [server.cpuMs(), performance.now(), frames[0] ?? 0];
  await sleep(forSeconds * 1_000);
  const percent = (100 * (server.cpuMs() - cpuMs)) / (performance.now() - startMs);
  const samples = (frames[0] ?? 0) - before;
  for (const call of calls) call.cancel();
  for (const client of clients) client.close();
  const bytes = last === undefined ? new Uint8Array() : StreamIostatResponse.encode(last).finish();
  return { percent, samples, bytes };
}
