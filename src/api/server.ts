// The gRPC server: the service, health and reflection on one address. On stop, streams end first,
// then calls drain within a limit, then what is left is cut off.
import { Server, ServerCredentials, type UntypedServiceImplementation } from "@grpc/grpc-js";
import { setImmediate } from "node:timers/promises";
import type { Logger } from "pino";
import { HealthService } from "../gen/grpc/health/v1/health.ts";
import { ServerReflectionService as ReflectionV1 } from "../gen/grpc/reflection/v1/reflection.ts";
import { ServerReflectionService as ReflectionV1Alpha } from "../gen/grpc/reflection/v1alpha/reflection.ts";
import { StorageNodeService } from "../gen/storagenode/v1/storage_node.ts";
import { Refusal } from "../model/errors.ts";
import type { Instruments } from "../telemetry/instruments.ts";
import { OpenCalls, type StorageNodeHandlers } from "./call.ts";
import { Health, SERVICE } from "./health.ts";
import { Reflection } from "./reflection.ts";

const DRAIN_LIMIT_MS = 5_000;
const MAX_MESSAGE_BYTES = 4 * 1024 * 1024;

const REFLECTED = [
  SERVICE,
  "grpc.health.v1.Health",
  "grpc.reflection.v1.ServerReflection",
  "grpc.reflection.v1alpha.ServerReflection",
];

/** The address cannot be listened on: taken, not of this machine, not permitted. */
export class ListenError extends Error {
  constructor(listen: string, cause: unknown) {
    const why = cause instanceof Error ? cause.message : String(cause);
    super(`cannot listen on ${listen}: ${why}`, { cause });
    this.name = "ListenError";
  }
}

export type ServerOptions = {
  /** HOST:PORT; port 0 takes a free one. */
  readonly listen: string;
  /** RPCs without a handler answer UNIMPLEMENTED, in a sentence. */
  readonly handlers: Partial<StorageNodeHandlers>;
  readonly log: Logger;
  readonly instruments: Instruments;
};

export type RunningServer = AsyncDisposable & {
  /** HOST:PORT as bound. */
  readonly address: string;
  readonly setReady: (ready: boolean) => void;
};

/** Listens, and answers at once. Throws ListenError. */
export async function startServer({
  listen,
  handlers,
  log,
  instruments,
}: ServerOptions): Promise<RunningServer> {
  const server = new Server({
    "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
    // Two agents on one port would each get some of the calls.
    "grpc.so_reuseport": 0,
  });
  const desk = new OpenCalls(log, instruments);
  const health = new Health();
  const reflection = new Reflection(REFLECTED);
  server.addService(
    { ...StorageNodeService, getExport: encodedOnce(StorageNodeService.getExport) },
    serviceOf(desk, handlers),
  );
  server.addService(HealthService, { ...health.handlers(desk) });
  server.addService(ReflectionV1, { ...reflection.handlers() });
  server.addService(ReflectionV1Alpha, { ...reflection.handlers() });
  const port = await bind(server, listen);
  return {
    address: `${listen.slice(0, listen.lastIndexOf(":"))}:${port}`,
    setReady: (ready) => health.setReady(ready),
    [Symbol.asyncDispose]: async () => {
      health.setReady(false);
      // Watchers are told before their streams end.
      await setImmediate();
      await stop(server, desk);
    },
  };
}

/** An answer that is given again as the same object is the same bytes. */
function encodedOnce<Definition extends { responseSerialize: (answer: never) => Buffer }>(
  definition: Definition,
): Definition {
  const encoded = new WeakMap<object, Buffer>();
  const responseSerialize = (answer: object & Parameters<Definition["responseSerialize"]>[0]) => {
    const known = encoded.get(answer);
    if (known !== undefined) return known;
    const bytes = definition.responseSerialize(answer);
    encoded.set(answer, bytes);
    return bytes;
  };
  return { ...definition, responseSerialize };
}

function bind(server: Server, listen: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(listen, ServerCredentials.createInsecure(), (error, port) => {
      if (error === null) resolve(port);
      else reject(new ListenError(listen, error));
    });
  });
}

function serviceOf(
  desk: OpenCalls,
  handlers: Partial<StorageNodeHandlers>,
): UntypedServiceImplementation {
  const byName: Readonly<Record<string, unknown>> = handlers;
  const service: UntypedServiceImplementation = {};
  for (const [name, definition] of Object.entries(StorageNodeService)) {
    const method = definition.path.slice(1);
    const handler = byName[name];
    const missing = () => {
      const rpc = method.slice(method.indexOf("/") + 1);
      return new Refusal("NOT_IMPLEMENTED", `${rpc} is not implemented yet`);
    };
    if (definition.responseStream) {
      service[name] = desk.stream(method, (request, context) => {
        if (!isFunction(handler)) throw missing();
        return handler(request, context);
      });
    } else {
      service[name] = desk.unary(method, async (request, context) => {
        if (!isFunction(handler)) throw missing();
        return await handler(request, context);
      });
    }
  }
  return service;
}

// The record's type ties each handler to its messages; grpc-js's own table is untyped.
// oxlint-disable-next-line typescript/no-explicit-any
function isFunction(value: unknown): value is (...args: unknown[]) => any {
  return typeof value === "function";
}

async function stop(server: Server, desk: OpenCalls): Promise<void> {
  desk.drain();
  await new Promise<void>((resolve) => {
    const limit = setTimeout(() => {
      server.forceShutdown();
      resolve();
    }, DRAIN_LIMIT_MS);
    server.tryShutdown(() => {
      clearTimeout(limit);
      resolve();
    });
  });
}
