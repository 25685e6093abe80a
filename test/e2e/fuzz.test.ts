// 1,000 malformed requests over the wire, to every method and to the HTTP port: each is refused with a reason
// that docs/errors.md has, none is a fault of the agent, and the connection of the innocent stays open.
// `SEED=… npm test e2e/fuzz` sends the same requests again.
import {
  createFileRegistry,
  fromBinary,
  ScalarType,
  type DescField,
  type DescMessage,
} from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { status, type Client, type ServiceError } from "@grpc/grpc-js";
import fc from "fast-check";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readConfig } from "../../src/config.ts";
import { startTelemetry } from "../../src/telemetry/telemetry.ts";
import { MAX_MESSAGE_BYTES } from "../../src/limits.ts";
import { CODE_OF_REASON } from "../../src/model/errors.ts";
import { call, refusal, startAgent, type TestAgent } from "../support/agent.ts";
import { testDatabase } from "../support/database.ts";
import { startTarget } from "../support/target.ts";
import { eventsOf } from "../support/events.ts";
import { idOf, provision } from "../support/volumes.ts";

const SEED = Number(process.env["SEED"] ?? 20_261_128);
const EACH = 25;
const AT_A_TIME = 16;
/** A request may ask to wait for ten minutes. */
const DEADLINE_MS = 500;

const registry = createFileRegistry(
  fromBinary(
    FileDescriptorSetSchema,
    readFileSync(new URL("../../src/gen/descriptor.binpb", import.meta.url)),
  ),
);
const METHODS = [
  "storagenode.v1.StorageNode",
  "grpc.health.v1.Health",
  "grpc.reflection.v1.ServerReflection",
  "grpc.reflection.v1alpha.ServerReflection",
].flatMap((name) => registry.getService(name)?.methods ?? []);

const stack = new AsyncDisposableStack();
let agent: TestAgent;
let ids: readonly string[];

beforeAll(async () => {
  const database = stack.use(await testDatabase());
  const target = stack.use(await startTarget());
  const { telemetry: config } = readConfig({ DATABASE_URL: "postgresql:///x" });
  const owner = { nodeId: "node-1", fleet: "test", version: "0" };
  const telemetry = stack.use(startTelemetry(config, owner));
  agent = stack.use(await startAgent({ url: database.url, target }, {}, { telemetry }));
  await agent.ready();
  const lvol = await provision(agent, { sizeBytes: 4n * 1024n ** 2n });
  ids = [idOf(lvol), ...[...agent.node.agent.rows.disks()].map(({ id }) => id), "node-1"];
});

afterAll(async () => {
  await stack.disposeAsync();
});

/** Texts that careless and hostile clients send; halves of surrogate pairs as the bytes that some encode. */
const text = () =>
  fc.oneof(
    fc.constantFrom(...ids),
    fc.constantFrom(
      "",
      " ",
      "\0",
      "*",
      "..",
      "/etc/passwd",
      "'; drop table lvol; --",
      "%s%n",
      "🦊",
    ),
    fc.constantFrom("é".repeat(5_000), "x".repeat(200_000), "nqn.2014-08.org.nvmexpress:uuid:1"),
    fc.uuid(),
    fc.string({ unit: "binary" }),
  );
const textBytes = () =>
  fc.oneof(
    text().map((value) => new TextEncoder().encode(value)),
    fc.constant(Uint8Array.of(0xed, 0xa0, 0x80)),
    fc.uint8Array({ maxLength: 20 }),
  );
const int64 = fc.oneof(
  fc.constantFrom(0n, 1n, -1n, 2n ** 63n - 1n, -(2n ** 63n), 2n ** 40n),
  fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
);

/** The bytes of a message whose fields have the right wire types, most of them, and any values. */
function messageOf(type: DescMessage, depth = 0): fc.Arbitrary<Uint8Array> {
  const parts = type.fields.map((field) => {
    const one = fieldOf(field, depth);
    const isMany = field.fieldKind === "list" || field.fieldKind === "map";
    return fc.oneof(
      { arbitrary: fc.constant([]), weight: 1 },
      { arbitrary: fc.array(one, { maxLength: isMany ? 40 : 2 }), weight: 3 },
      // The same one a thousand times.
      { arbitrary: one.map((bytes) => repeated(bytes, isMany ? 1_000 : 1)), weight: 2 },
    );
  });
  const unknown = fc.array(fc.uint8Array({ maxLength: 30 }), { maxLength: 1 });
  const known = fc.tuple(...parts).map((all) => all.flat());
  return fc
    .tuple(
      known,
      fc.oneof({ arbitrary: fc.constant([]), weight: 9 }, { arbitrary: unknown, weight: 1 }),
    )
    .map(([fields, garbage]) => Buffer.concat([...fields, ...garbage]));
}

/** So often, within the size of a request. */
function repeated(bytes: Uint8Array, times: number): readonly Uint8Array[] {
  const count = Math.min(times, Math.ceil(MAX_MESSAGE_BYTES / 4 / (bytes.length + 1)));
  return Array.from({ length: count }, () => bytes);
}

function fieldOf(field: DescField, depth: number): fc.Arbitrary<Uint8Array> {
  const bytes = (content: fc.Arbitrary<Uint8Array>) =>
    content.map((value) =>
      new BinaryWriter().tag(field.number, WireType.LengthDelimited).bytes(value).finish(),
    );
  const number = int64.map((value) =>
    new BinaryWriter().tag(field.number, WireType.Varint).int64(value).finish(),
  );
  if (field.fieldKind === "map") {
    const entry = fc.tuple(textBytes(), textBytes()).map(([key, value]) => {
      const writer = new BinaryWriter().tag(1, WireType.LengthDelimited).bytes(key);
      return writer.tag(2, WireType.LengthDelimited).bytes(value).finish();
    });
    return bytes(entry);
  }
  const message = field.message;
  if (message !== undefined) return bytes(depth > 3 ? textBytes() : messageOf(message, depth + 1));
  const isText = field.scalar === ScalarType.STRING || field.scalar === ScalarType.BYTES;
  return isText ? bytes(textBytes()) : number;
}

type Answer = "answered" | ServiceError;

/** Sends one request, and reads the first answer of a stream. */
function send(
  client: Client,
  path: string,
  request: Uint8Array,
  streams: boolean,
): Promise<Answer> {
  const same = (bytes: Buffer) => bytes;
  const options = { deadline: Date.now() + DEADLINE_MS };
  return new Promise((resolve) => {
    if (!streams) {
      client.makeUnaryRequest(path, same, same, Buffer.from(request), options, (error) => {
        resolve(error ?? "answered");
      });
      return;
    }
    const stream = client.makeBidiStreamRequest(path, same, same, options);
    const end = (answer: Answer) => {
      resolve(answer);
      stream.cancel();
    };
    stream.on("data", () => end("answered"));
    stream.on("end", () => end("answered"));
    stream.on("error", (error: ServiceError) => end(error));
    stream.write(Buffer.from(request));
    stream.end();
  });
}

/** What is wrong with an answer to a malformed request; undefined: nothing. */
async function fault(answer: Answer): Promise<string | undefined> {
  if (answer === "answered" || answer.code === status.DEADLINE_EXCEEDED) return undefined;
  if (answer.metadata.get("grpc-status-details-bin").length === 0) {
    // gRPC's own answer to a body that cannot be parsed.
    return answer.details === "Error deserializing request" ? undefined : answer.message;
  }
  const { reason, code } = await refusal(Promise.reject(answer));
  if (reason === "INTERNAL") return answer.message;
  const known: Readonly<Record<string, string>> = CODE_OF_REASON;
  const codes = [known[reason], reason === "INVALID_FIELD" ? "OUT_OF_RANGE" : undefined];
  return codes.includes(status[code]) ? undefined : `${reason} with code ${code}`;
}

describe("malformed requests", () => {
  it(`to every method are refused with a known reason (SEED=${SEED})`, async () => {
    expect(METHODS.length).toBeGreaterThan(35);
    const { client } = agent;
    const watcher = client.watch({ fromRevision: 0n, bookmarkInterval: undefined });
    let ended: unknown;
    watcher.on("error", (error) => (ended = error));
    watcher.on("end", () => (ended = "ended"));
    watcher.resume();
    const requests = METHODS.flatMap(({ input, parent, name, methodKind }, index) => {
      const path = `/${parent.typeName}/${name}`;
      const sample = fc.sample(messageOf(input), { seed: SEED + index, numRuns: EACH });
      return sample.map((request) => ({ path, request, streams: methodKind !== "unary" }));
    });
    expect(requests.length).toBeGreaterThan(900);
    const faults: string[] = [];
    const next = requests.values();
    const worker = async () => {
      for (const { path, request, streams } of next) {
        const found = await fault(await send(client, path, request, streams));
        const bytes = Buffer.from(request).toString("base64").slice(0, 300);
        if (found !== undefined) faults.push(`${path} ${bytes}: ${found}`);
      }
    };
    await Promise.all(Array.from({ length: AT_A_TIME }, worker));
    expect(faults).toEqual([]);
    expect(ended).toBeUndefined();
    watcher.cancel();
    // What was asked is told, whatever text it had.
    await call(client, client.getNode.bind(client), {});
    expect(agent.node.agent.ready()).toBe(true);
    expect((await eventsOf(agent, "")).length).toBeGreaterThan(0);
  }, 240_000);

  it(`to the HTTP port are refused, and probes are answered after them (SEED=${SEED})`, async () => {
    const address = agent.node.httpAddress ?? "";
    const line = fc.oneof(
      fc.constantFrom("GET /metrics HTTP/1.1", "GET /readyz HTTP/1.1", "POST /readyz HTTP/1.1"),
      fc.constantFrom(
        "GET /../etc/passwd HTTP/1.1",
        "GET http://x:1/metrics HTTP/1.1",
        "PRI * HTTP/2.0",
      ),
      fc.string({ unit: "binary" }),
    );
    const header = fc.oneof(
      fc.constantFrom(
        "Host: x",
        "Content-Length: -1",
        "Transfer-Encoding: chunked",
        "Host: \0",
        "",
      ),
      fc.constantFrom(`X: ${"y".repeat(100_000)}`, "Content-Length: 99999999999999999999"),
      fc.string({ unit: "binary" }),
    );
    const requests = fc.sample(fc.tuple(line, fc.array(header)), { seed: SEED, numRuns: 100 });
    const answers = await Promise.all(
      requests.map(([first, headers]) =>
        rawAnswer(address, [first, ...headers, "", ""].join("\r\n")),
      ),
    );
    const codes = answers.flatMap((answer) => /^HTTP\/1.1 (\d{3})/.exec(answer)?.[1] ?? []);
    expect(codes.length).toBeGreaterThan(20);
    expect(codes.filter((code) => code.startsWith("5"))).toEqual([]);
    const probes = await Promise.all(
      ["healthz", "readyz", "metrics"].map((path) => fetch(`http://${address}/${path}`)),
    );
    expect(probes.map(({ status: code }) => code)).toEqual([200, 200, 200]);
  });
});

/** What a server answers until it closes the connection. */
async function rawAnswer(address: string, request: string): Promise<string> {
  const colon = address.lastIndexOf(":");
  const socket = connect(Number(address.slice(colon + 1)), address.slice(0, colon));
  let answer = "";
  socket.on("data", (bytes) => (answer += bytes.toString("latin1")));
  // A server may close before it has read everything.
  socket.on("error", () => {});
  // What follows it is no request either, so that the server never waits for more.
  socket.write(`${request}\0\0\r\n\r\n`, "latin1");
  await new Promise((resolve) => socket.once("close", resolve));
  return answer;
}
