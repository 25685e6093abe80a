// Watch: how long after the answer to a call its change reaches a watcher, and what many watchers of many
// changes cost. Every watcher has to get every change, or to be told that it did not.
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { credentials, type ClientReadableStream } from "@grpc/grpc-js";
import { StorageNodeClient, WatchResponse } from "../../src/gen/storagenode/v1/storage_node.ts";
import { call, until } from "../support/agent.ts";
import { HOST } from "../support/volumes.ts";
import type { AgentUnderTest } from "./agent-under-test.ts";
import { startEcho } from "./echo.ts";
import { spread } from "./measure.ts";
import type { Row } from "./row.ts";

const OTHER_HOST = `${HOST.slice(0, -1)}2`;
const CONCURRENCY = 32;
/** Streams on one connection. */
const PER_CONNECTION = 100;
/** Changes of the latency, one after another. */
const SINGLES = 10;

export const watchRow: Row = {
  name: "watch",
  async run({ sizes, startNode }) {
    await using node = await startNode();
    await node.fillTo(sizes.burst);
    const ids = (await node.volumes()).map(({ id }) => id);
    const { agent } = node;
    const delays = await latencies(agent, ids[0] ?? "", sizes.singles * SINGLES);
    const before = { cpu: agent.cpuMs(), rss: residentMib(agent.pid) };
    const { readers, close } = openReaders(agent, sizes.watchers);
    await Promise.all(readers.map((reader) => reader.synced()));
    const opened = { cpu: agent.cpuMs(), rss: residentMib(agent.pid) };
    const startMs = performance.now();
    const changes = await changeFor(agent, ids, sizes.readSeconds * 1_000);
    const changedMs = performance.now() - startMs;
    await until("all watchers have the same changes, or were told that they do not", () => {
      const running = readers.filter(({ ended }) => !ended);
      return new Set(running.map(({ messages }) => messages)).size <= 1;
    });
    const readMs = performance.now() - startMs;
    const closed = { cpu: agent.cpuMs(), rss: residentMib(agent.pid) };
    const messages = readers.reduce((sum, reader) => sum + reader.messages, 0);
    const told = readers.filter(({ ended }) => ended).length;
    close();
    const last = readers.findLast(({ change }) => change !== undefined)?.change;
    const cpuUs = (1_000 * (closed.cpu - opened.cpu)) / Math.max(1, messages);
    const bareUs = await ofBareServer(last ?? { revision: 0n, change: undefined }, {
      watchers: sizes.watchers,
      everyMs: changedMs / Math.max(1, changes),
      forMs: sizes.readSeconds * 1_000,
    });
    const once = (value: number) => spread([value]);
    return {
      lines: [
        {
          what: "a change reaches a watcher after the call's answer",
          unit: "ms",
          ours: spread(delays),
          goal: { kind: "at most", value: 2 },
        },
        {
          what: `${sizes.watchers} watchers: messages`,
          unit: "per s",
          ours: once((1_000 * messages) / readMs),
        },
        {
          what: `${sizes.watchers} watchers: CPU time per message (limit: a bare server)`,
          unit: "us",
          ours: once(cpuUs),
          limit: once(bareUs),
          ratio: once(cpuUs / bareUs),
          goal: { kind: "at most", value: 1.5 },
        },
        {
          what: `${sizes.watchers} watchers: agent's memory, more at the end than when all were synced`,
          unit: "MiB",
          ours: once(closed.rss - opened.rss),
        },
      ],
      notes: [
        `${changes} intents in ${(changedMs / 1_000).toFixed(1)} s; ${told} of ${sizes.watchers} watchers ended as too slow`,
        `opening ${sizes.watchers} watchers of ${ids.length} volumes took ${(opened.cpu - before.cpu).toFixed(0)} ms of the agent's CPU time`,
        "all watchers are read by one process, which is the slower side",
      ],
      raw: { delays, changes, changedMs, readMs, messages, told, before, opened, closed },
    };
  },
};

/** CPU time, in us, of each message of a server that writes the same one as often to as many watchers. */
async function ofBareServer(
  message: WatchResponse,
  how: { readonly watchers: number; readonly everyMs: number; readonly forMs: number },
): Promise<number> {
  const bytes = WatchResponse.encode(message).finish();
  await using bare = await startEcho({ Watch: { bytes, everyMs: how.everyMs } });
  const { readers, close } = openReaders(bare, how.watchers);
  const read = () => readers.reduce((sum, reader) => sum + reader.messages, 0);
  await until("each watcher reads", () => readers.every(({ messages }) => messages > 0));
  const before = { cpu: bare.cpuMs(), messages: read() };
  await sleep(how.forMs);
  const us = (1_000 * (bare.cpuMs() - before.cpu)) / Math.max(1, read() - before.messages);
  close();
  return us;
}

/** On as many connections as they need. */
function openReaders({ address }: Pick<AgentUnderTest, "address">, count: number) {
  const clients = Array.from({ length: Math.ceil(count / PER_CONNECTION) }, () => {
    return new StorageNodeClient(address, credentials.createInsecure(), {
      "grpc.use_local_subchannel_pool": 1,
    });
  });
  const readers = clients.flatMap((client, index) => {
    const left = Math.min(PER_CONNECTION, count - index * PER_CONNECTION);
    return Array.from({ length: left }, () => new Reader({ client }));
  });
  const close = () => {
    for (const reader of readers) reader.close();
    for (const client of clients) client.close();
  };
  return { readers, close };
}

class Reader {
  messages = 0;
  ended = false;
  /** The last change of an object. */
  change: WatchResponse | undefined;
  readonly #stream: ClientReadableStream<WatchResponse>;
  readonly #synced = Promise.withResolvers<void>();

  constructor(
    { client }: Pick<AgentUnderTest, "client">,
    onMessage?: (one: WatchResponse) => void,
  ) {
    this.#stream = client.watch({ fromRevision: 0n, bookmarkInterval: undefined });
    this.#stream.on("data", (message: WatchResponse) => {
      if (message.change?.$case === "synced") this.#synced.resolve();
      this.messages += 1;
      if (message.change?.$case === "lvol") this.change = message;
      onMessage?.(message);
    });
    this.#stream.on("error", (error) => {
      this.ended = true;
      this.#synced.reject(error);
    });
    this.#synced.promise.catch(() => {});
  }

  synced(): Promise<void> {
    return this.#synced.promise;
  }

  close(): void {
    this.#stream.cancel();
  }
}

const allow = ({ client }: Pick<AgentUnderTest, "client">, lvolId: string, allowed: boolean) => {
  const request = { lvolId, hostNqn: OTHER_HOST, waitTimeout: undefined };
  return call(client, client[allowed ? "allowHost" : "revokeHost"].bind(client), request);
};

async function latencies(agent: AgentUnderTest, id: string, count: number): Promise<number[]> {
  const seen = new Map<bigint, number>();
  const reader = new Reader(agent, ({ change }) => {
    if (change?.$case !== "lvol" || change.value.meta?.id !== id) return;
    const { generation } = change.value.meta;
    if (!seen.has(generation)) seen.set(generation, performance.now());
  });
  await reader.synced();
  const delays: number[] = [];
  for (let index = 0; index < count; index += 1) {
    const { lvol } = await allow(agent, id, index % 2 === 0);
    const answeredMs = performance.now();
    const generation = lvol?.meta?.generation ?? 0n;
    await until("the change has arrived", () => seen.has(generation));
    delays.push((seen.get(generation) ?? Number.NaN) - answeredMs);
  }
  reader.close();
  return delays;
}

async function changeFor(
  agent: AgentUnderTest,
  ids: readonly string[],
  forMs: number,
): Promise<number> {
  const endMs = performance.now() + forMs;
  let changes = 0;
  const worker = async (first: number) => {
    for (let round = 0; performance.now() < endMs; round += 1) {
      for (let index = first; index < ids.length; index += CONCURRENCY) {
        await allow(agent, ids[index] ?? "", round % 2 === 0);
        changes += 1;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(CONCURRENCY, ids.length) }, (_, n) => worker(n)));
  return changes;
}

function residentMib(pid: number | undefined): number {
  const [, kib = "NaN"] = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8")) ?? [];
  return Number(kib) / 1_024;
}
