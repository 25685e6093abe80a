// The gRPC server: StorageNode, health and reflection on one address, and on the Unix socket. On stop it
// ends streams, waits at most DRAIN_MS for the calls in progress, then closes the remaining connections.
import { Server, type UntypedServiceImplementation } from "@grpc/grpc-js";
import { setImmediate } from "node:timers/promises";
import type { Logger } from "pino";
import type { Access } from "../access/access.ts";
import { HealthService } from "../gen/grpc/health/v1/health.ts";
import { ServerReflectionService as ReflectionV1 } from "../gen/grpc/reflection/v1/reflection.ts";
import { ServerReflectionService as ReflectionV1Alpha } from "../gen/grpc/reflection/v1alpha/reflection.ts";
import { StorageNodeService } from "../gen/storagenode/v1/storage_node.ts";
import { Refusal } from "../model/errors.ts";
import type { Instruments } from "../telemetry/instruments.ts";
import { OpenCalls, type StorageNodeHandlers } from "./call.ts";
import { plainDoor, tlsDoor, unixDoor, type Door } from "./doors.ts";
import { encodedOnce, iostatsEncodedOnce } from "./encoded-once.ts";
import { Gate } from "./gate.ts";
import { Health, SERVICE } from "./health.ts";
import { Reflection } from "./reflection.ts";
import { mayBeSerialized } from "./serialized.ts";
import {
  CONNECTION_UNREAD_MIB,
  DRAIN_MS,
  MAX_CONNECTION_CALLS,
  MAX_MESSAGE_BYTES,
} from "../limits.ts";

const REFLECTED = [
  SERVICE,
  "grpc.health.v1.Health",
  "grpc.reflection.v1.ServerReflection",
  "grpc.reflection.v1alpha.ServerReflection",
];

/** Streams whose items lose their worth while they wait in a buffer. */
const NEWEST_ONLY: ReadonlySet<string> = new Set<keyof StorageNodeHandlers>(["streamIostat"]);

export type ServerOptions = {
  /** HOST:PORT; port 0 binds a free port. */
  readonly listen: string;
  /** Who may call, over TLS; undefined: without TLS, everybody. */
  readonly access: Access | undefined;
  /** Path of the Unix socket; undefined: none. */
  readonly socket: string | undefined;
  /** RPCs without a handler answer UNIMPLEMENTED with a message. */
  readonly handlers: Partial<StorageNodeHandlers>;
  readonly log: Logger;
  readonly instruments: Instruments;
};

export type RunningServer = AsyncDisposable & {
  /** HOST:PORT as bound. */
  readonly address: string;
  readonly setReady: (ready: boolean) => void;
};

/** Resolves when the server listens. Throws ListenError. */
export async function startServer({
  listen,
  access,
  socket,
  handlers,
  log,
  instruments,
}: ServerOptions): Promise<RunningServer> {
  const server = new Server({
    "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
    "grpc.max_concurrent_streams": MAX_CONNECTION_CALLS,
    "grpc-node.max_session_memory": CONNECTION_UNREAD_MIB,
    // With SO_REUSEPORT two agents could bind one port, and each would get some of the calls.
    "grpc.so_reuseport": 0,
  });
  const calls = new OpenCalls(log, instruments, { asks: access !== undefined });
  const health = new Health();
  const reflection = new Reflection(REFLECTED);
  server.addService(
    {
      ...StorageNodeService,
      getExport: encodedOnce(StorageNodeService.getExport),
      streamIostat: iostatsEncodedOnce(StorageNodeService.streamIostat),
      watch: mayBeSerialized(StorageNodeService.watch),
    },
    serviceOf(calls, handlers),
  );
  server.addService(HealthService, { ...health.handlers(calls) });
  server.addService(ReflectionV1, { ...reflection.handlers(calls, "v1") });
  server.addService(ReflectionV1Alpha, { ...reflection.handlers(calls, "v1alpha") });
  const gate = new Gate(log, instruments);
  await using stack = new AsyncDisposableStack();
  // Whatever fails below, nothing may keep the process from ending.
  stack.defer(() => server.forceShutdown());
  const doorway = { server, gate, log };
  const door =
    access === undefined
      ? await plainDoor(doorway, listen)
      : await tlsDoor(doorway, { listen, access });
  const doors = [stack.use(door)];
  if (socket !== undefined) doors.push(stack.use(await unixDoor(doorway, socket)));
  const owned = stack.move();
  return {
    address: door.address,
    setReady: (ready) => health.setReady(ready),
    [Symbol.asyncDispose]: async () => {
      health.setReady(false);
      // Let Watch streams send NOT_SERVING before they end.
      await setImmediate();
      await stop(server, { calls, doors });
      await owned.disposeAsync();
    },
  };
}

function serviceOf(
  calls: OpenCalls,
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
      const pacing = NEWEST_ONLY.has(name) ? "sent" : "buffered";
      service[name] = calls.stream(method, pacing, (request, context) => {
        if (!isFunction(handler)) throw missing();
        return handler(request, context);
      });
    } else {
      service[name] = calls.unary(method, async (request, context) => {
        if (!isFunction(handler)) throw missing();
        return await handler(request, context);
      });
    }
  }
  return service;
}

// `any`: StorageNodeHandlers types each handler, but grpc-js's table of handlers is untyped.
// oxlint-disable-next-line typescript/no-explicit-any
function isFunction(value: unknown): value is (...args: unknown[]) => any {
  return typeof value === "function";
}

async function stop(
  server: Server,
  { calls, doors }: { readonly calls: OpenCalls; readonly doors: readonly Door[] },
): Promise<void> {
  calls.drain();
  for (const door of doors) door.close();
  await new Promise<void>((resolve) => {
    const limit = setTimeout(() => {
      server.forceShutdown();
      resolve();
    }, DRAIN_MS);
    server.tryShutdown(() => {
      clearTimeout(limit);
      resolve();
    });
  });
}
