// The ways to the gRPC server: a TCP port, with TLS or on loopback without, and the Unix socket.
import {
  experimental,
  ServerCredentials,
  type ConnectionInjector,
  type Server,
} from "@grpc/grpc-js";
import type { Logger } from "pino";
import type { Access } from "../access/access.ts";
import type { OpenCall, Peer } from "../access/peer.ts";
import { listenTls } from "../access/tls-listener.ts";
import { listenUnix } from "../access/unix-listener.ts";
import { anyCaller } from "../model/caller.ts";
import type { Connected, Gate } from "./gate.ts";
import { hostAndPort, ListenError } from "./listen.ts";

/** Its disposal ends all connections. */
export type Door = AsyncDisposable & {
  /** HOST:PORT, or the path of the socket. */
  readonly address: string;
  /** Takes no further connections. */
  readonly close: () => void;
};

type Doorway = { readonly server: Server; readonly gate: Gate; readonly log: Logger };

/** Throws ListenError. */
export async function tlsDoor(
  { server, gate, log }: Doorway,
  { listen, access }: { readonly listen: string; readonly access: Access },
): Promise<Door> {
  const ends = new Map<Peer, () => void>();
  const onPeer = (peer: Peer) => {
    const end = () => {
      // The present calls go on; the client makes another connection for the next.
      if (ends.delete(peer)) injector.destroy();
    };
    ends.set(peer, end);
    const injector = injectorFor(server, gate, {
      caller: () => peer.caller(),
      get name() {
        return peer.name;
      },
      address: peer.address,
      calls: peer.calls,
      end,
    });
    peer.socket.once("close", end);
    injector.injectConnection(peer.socket);
  };
  const at = hostAndPort(listen);
  const listener = await listenTls({ at, protocol: "h2", access, log, onPeer }).catch(
    (error: unknown) => {
      throw new ListenError(listen, error);
    },
  );
  const stopLooking = access.onLook(() => {
    for (const [peer, end] of ends) {
      for (const call of peer.calls) call.recheck();
      if (peer.isOutdated) end();
    }
  });
  return {
    address: `${listen.slice(0, listen.lastIndexOf(":"))}:${listener.port}`,
    close: () => listener.close(),
    [Symbol.asyncDispose]: async () => {
      stopLooking();
      await listener[Symbol.asyncDispose]();
    },
  };
}

/** Throws ListenError. */
export async function unixDoor({ server, gate, log }: Doorway, path: string): Promise<Door> {
  const name = `unix:${path}`;
  const caller = anyCaller(name);
  const calls = new Set<OpenCall>();
  const from = { caller: () => caller, name, address: name, calls, end: () => undefined };
  const injector = injectorFor(server, gate, from);
  const listener = await listenUnix(path, (socket) => injector.injectConnection(socket), log).catch(
    (error: unknown) => {
      throw new ListenError(path, error);
    },
  );
  return {
    address: path,
    close: () => listener.close(),
    [Symbol.asyncDispose]: async () => {
      await listener[Symbol.asyncDispose]();
    },
  };
}

/** Throws ListenError. */
export async function plainDoor({ server }: Doorway, listen: string): Promise<Door> {
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(listen, ServerCredentials.createInsecure(), (error, port) => {
      if (error === null) resolve(port);
      else reject(new ListenError(listen, error));
    });
  });
  return {
    address: `${listen.slice(0, listen.lastIndexOf(":"))}:${port}`,
    close: () => undefined,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** Connections through it are encrypted already, or need not be. */
function injectorFor(server: Server, gate: Gate, from: Connected): ConnectionInjector {
  const plain = ServerCredentials.createInsecure();
  const gated = experimental.createServerCredentialsWithInterceptors(plain, [
    gate.interceptor(from),
  ]);
  return server.createConnectionInjector(gated);
}
