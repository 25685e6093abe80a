// A bare grpc-js server in a child process: answers each method with fixed bytes without decoding
// the request, to measure the cost of a gRPC call that does nothing; a stream gets them again and again.
// Run directly, this file is that process.
import {
  credentials,
  Server,
  ServerCredentials,
  type ServerWritableStream,
  type ServiceDefinition,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { StorageNodeClient } from "../../src/gen/storagenode/v1/storage_node.ts";
import { cpuMs } from "./cpu.ts";

export type Echo = AsyncDisposable & {
  readonly address: string;
  readonly client: StorageNodeClient;
  readonly cpuMs: () => number;
};

/** The answer of each method in base64, by method name; everyMs: all its streams get it that often. */
const answers = z.record(
  z.string(),
  z.object({ base64: z.string(), everyMs: z.number().optional() }),
);

export type Answer = Uint8Array | { readonly bytes: Uint8Array; readonly everyMs: number };

const started = z.object({ address: z.string() });

export async function startEcho(byMethod: Readonly<Record<string, Answer>>): Promise<Echo> {
  const encoded = Object.fromEntries(
    Object.entries(byMethod).map(([name, answer]) => [name, encodedAnswer(answer)]),
  );
  const child = fork(fileURLToPath(import.meta.url), [JSON.stringify(encoded)]);
  const [message] = await once(child, "message");
  const { address } = started.parse(message);
  const client = new StorageNodeClient(address, credentials.createInsecure());
  return {
    address,
    client,
    cpuMs: () => cpuMs(child.pid),
    [Symbol.asyncDispose]: async () => {
      client.close();
      child.kill("SIGKILL");
      await once(child, "exit");
    },
  };
}

function encodedAnswer(answer: Answer): z.infer<typeof answers>[string] {
  const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString("base64");
  if (answer instanceof Uint8Array) return { base64: base64(answer) };
  return { base64: base64(answer.bytes), everyMs: answer.everyMs };
}

const identity = (bytes: Buffer): Buffer => bytes;

async function main(text: string): Promise<void> {
  const server = new Server();
  const service: Record<string, ServiceDefinition[string]> = {};
  const handlers: UntypedServiceImplementation = {};
  for (const [name, { base64, everyMs }] of Object.entries(answers.parse(JSON.parse(text)))) {
    const bytes = Buffer.from(base64, "base64");
    service[name] = {
      path: `/storagenode.v1.StorageNode/${name}`,
      requestStream: false,
      responseStream: everyMs !== undefined,
      requestSerialize: identity,
      requestDeserialize: identity,
      responseSerialize: identity,
      responseDeserialize: identity,
    };
    handlers[name] =
      everyMs === undefined
        ? (_call: unknown, callback: (error: null, answer: Buffer) => void) => callback(null, bytes)
        : streamed(bytes, everyMs);
  }
  server.addService(service, handlers);
  const insecure = ServerCredentials.createInsecure();
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", insecure, (error, bound) => {
      if (error === null) resolve(bound);
      else reject(error);
    });
  });
  process.send?.({ address: `127.0.0.1:${port}` });
  // Exit when the parent process has ended.
  process.once("disconnect", () => process.exit(0));
}

/** Writes the bytes to all streams that are open. */
function streamed(bytes: Buffer, everyMs: number) {
  const open = new Set<ServerWritableStream<unknown, Buffer>>();
  setInterval(() => {
    for (const stream of open) stream.write(bytes);
  }, everyMs);
  return (stream: ServerWritableStream<unknown, Buffer>) => {
    open.add(stream);
    stream.once("cancelled", () => open.delete(stream));
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(process.argv[2] ?? "");
