// What one client may keep open or leave unread, so that no other client notices it.
import { credentials, status, type ClientReadableStream, type ServiceError } from "@grpc/grpc-js";
import { connect, type ClientHttp2Stream } from "node:http2";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { CallLimits } from "../../src/api/call-limits.ts";
import { HealthClient, type HealthCheckResponse } from "../../src/gen/grpc/health/v1/health.ts";
import { ServerReflectionService } from "../../src/gen/grpc/reflection/v1/reflection.ts";
import { StorageNodeClient } from "../../src/gen/storagenode/v1/storage_node.ts";
import {
  MAX_CALLS,
  MAX_CONNECTION_STREAMS,
  MAX_STREAMS,
  RESERVED_CALLS,
} from "../../src/limits.ts";
import { call, type TestAgent } from "../support/agent.ts";
import { collectGarbage } from "../support/collect-garbage.ts";
import { agentWithoutTarget } from "../support/agent-without-target.ts";

const API = "storagenode.v1.StorageNode";
const HEALTH = "grpc.health.v1.Health";

const stack = new AsyncDisposableStack();
let agent: TestAgent;

beforeAll(async () => {
  agent = await agentWithoutTarget(stack);
});

afterAll(async () => {
  await stack.disposeAsync();
});

/** A connection of its own: clients of one address share one otherwise. */
const OWN = { "grpc.use_local_subchannel_pool": 1 };

/** Resolves with the first status of a watch, or with the code that ended it. */
function first(stream: ClientReadableStream<HealthCheckResponse>): Promise<string | number> {
  return new Promise((resolve) => {
    stream.once("data", ({ status }: HealthCheckResponse) => resolve(status));
    stream.once("error", ({ code }: ServiceError) => resolve(code));
  });
}

describe("5,000 health watches of one client", () => {
  it("are refused over a limit, and every other client can watch and call", async () => {
    const greedy = new HealthClient(agent.address, credentials.createInsecure(), OWN);
    const watches = Array.from({ length: 5_000 }, () => greedy.watch({ service: API }));
    const answers = await Promise.all(watches.map(first));
    const refused = answers.filter((answer) => answer === status.RESOURCE_EXHAUSTED);
    expect(refused).toHaveLength(5_000 - MAX_CONNECTION_STREAMS);
    const others = Array.from({ length: 3 }, () => {
      return new HealthClient(agent.address, credentials.createInsecure(), OWN);
    });
    const watching = others.map((other) => other.watch({ service: API }));
    expect(await Promise.all(watching.map(first))).toEqual(others.map(() => "NOT_SERVING"));
    const node = new StorageNodeClient(agent.address, credentials.createInsecure(), OWN);
    const watcher = node.watch({ fromRevision: 0n, bookmarkInterval: undefined });
    await new Promise((resolve, reject) => watcher.once("data", resolve).once("error", reject));
    expect(await call(node, node.getHealth.bind(node), {})).toMatchObject({ ready: false });
    for (const stream of [...watches, ...watching, watcher]) stream.on("error", () => {}).cancel();
    for (const client of [greedy, node, ...others]) client.close();
  });
});

describe("a client of reflection that asks and does not read", () => {
  it("costs no memory for its answers, and gets all of them in order once it reads", async () => {
    const { path, requestSerialize, responseDeserialize } =
      ServerReflectionService.serverReflectionInfo;
    const questions = 2_000;
    const question = (number: number) => {
      const host = String(number);
      return framed(
        requestSerialize({ host, messageRequest: { $case: "fileContainingSymbol", value: API } }),
      );
    };
    const headers = { ":path": path, "content-type": "application/grpc", te: "trailers" };
    const sessions = [1, 2].map(() => connect(`http://${agent.address}`));
    const [greedy, other] = sessions.map((one) => one.request({ ":method": "POST", ...headers }));
    if (greedy === undefined || other === undefined) throw new Error("no streams");
    await collectGarbage();
    const before = process.memoryUsage().external;
    for (let number = 0; number < questions; number += 1) greedy.write(question(number));
    // What another client is answered took the agent as long as it would take to answer the first one.
    for (let number = 0; number < questions; number += 1) other.write(question(number));
    other.end();
    await other.forEach(() => {});
    await collectGarbage();
    const usedMib = (process.memoryUsage().external - before) / 1024 ** 2;
    expect(usedMib).toBeLessThan(100);
    greedy.end();
    let next = 0;
    for await (const message of messages(greedy)) {
      expect(responseDeserialize(message).validHost).toBe(String(next));
      next += 1;
    }
    expect(next).toBe(questions);
    for (const session of sessions) session.close();
  });
});

/** A message with the prefix that gRPC has over HTTP/2. */
function framed(message: Buffer): Buffer {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

/** The messages of an answer, until it ends. */
async function* messages(stream: ClientHttp2Stream): AsyncGenerator<Buffer> {
  let unread = Buffer.alloc(0);
  const chunks: AsyncIterable<Buffer> = stream;
  for await (const chunk of chunks) {
    unread = Buffer.concat([unread, chunk]);
    while (unread.length >= 5 && unread.length >= 5 + unread.readUInt32BE(1)) {
      const end = 5 + unread.readUInt32BE(1);
      yield unread.subarray(5, end);
      unread = unread.subarray(end);
    }
  }
}

describe("the limits", () => {
  const call = (method: string) => ({ method, peer: "a" });

  it("keep calls for health checks and operators when all others are taken", () => {
    const limits = new CallLimits();
    const enter = (method: string) => limits.enterCall(call(method));
    const waiting = Array.from({ length: MAX_CALLS - RESERVED_CALLS }, () => {
      return enter(`${API}/ProvisionLvol`);
    });
    expect(() => enter(`${API}/Delete`)).toThrow(/calls in progress, the limit is/);
    const kept = [`${HEALTH}/Check`, `${API}/GetHealth`, `${API}/Explain`].map(enter);
    expect(kept).toHaveLength(3);
    for (const one of waiting) one[Symbol.dispose]();
    expect(enter(`${API}/Delete`)).toBeDefined();
  });

  it("keep health watches and reflection when all other streams are taken", () => {
    const limits = new CallLimits();
    const open = (method: string, peer: string) => limits.enterStream({ method, peer });
    const streams = Array.from({ length: MAX_STREAMS }, (_, index) => {
      return open(`${API}/Watch`, `peer ${index % (MAX_STREAMS / MAX_CONNECTION_STREAMS)}`);
    });
    expect(() => open(`${API}/StreamIostat`, "new")).toThrow(/4000 streams are open/);
    expect(open(`${HEALTH}/Watch`, "new")).toBeDefined();
    expect(open("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "new")).toBeDefined();
    // A connection that has its share gets no other kind of stream either.
    expect(() => open(`${HEALTH}/Watch`, "peer 0")).toThrow(/on this connection, the limit is 100/);
    streams[0]?.[Symbol.dispose]();
    expect(open(`${API}/Watch`, "peer 0")).toBeDefined();
  });
});
