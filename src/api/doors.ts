// The ways to the gRPC server: a TCP port, with TLS or on loopback without, and the Unix socket.
import { experimental, ServerCredentials, type Server } from "@grpc/grpc-js";
import type { Socket } from "node:net";
import type { Logger } from "pino";
import type { Access } from "../access/access.ts";
import type { Peer } from "../access/peer.ts";
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
  const open = new Map<Peer, Served>();
  const onPeer = (peer: Peer) => {
    const { socket, address, calls } = peer;
    const from = { caller: () => peer.caller(), name: () => peer.name, address, calls };
    open.set(peer, serve({ server, gate }, socket, from));
    socket.once("close", () => open.delete(peer));
  };
  const at = hostAndPort(listen);
  const listener = await listenTls({ at, protocol: "h2", access, log, onPeer }).catch(
    (error: unknown) => {
      throw new ListenError(listen, error);
    },
  );
  const stopLooking = access.onLook(() => {
    for (const [peer, served] of open) {
      for (const call of peer.calls) call.recheck();
      if (peer.isOutdated) served.end();
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
  let count = 0;
  const onSocket = (socket: Socket) => {
    count += 1;
    // What a socket shows of its client is the same for all: each has a number.
    const address = `${name}#${count}`;
    serve({ server, gate }, socket, {
      caller: () => caller,
      name: () => name,
      address,
      calls: new Set(),
    });
  };
  const listener = await listenUnix(path, onSocket, log).catch((error: unknown) => {
    throw new ListenError(path, error);
  });
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

type Served = {
  /** The present calls go on; for the next the client makes another connection. */
  readonly end: () => void;
};

/** Serves one connection, which is encrypted already, or need not be. */
function serve(
  { server, gate }: Pick<Doorway, "server" | "gate">,
  socket: Socket,
  from: Omit<Connected, "end">,
): Served {
  let ended = false;
  const end = () => {
    if (!ended) injector.destroy();
    ended = true;
  };
  const interceptor = gate.interceptor({ ...from, end });
  const plain = ServerCredentials.createInsecure();
  const injector = server.createConnectionInjector(
    experimental.createServerCredentialsWithInterceptors(plain, [interceptor]),
  );
  socket.once("close", end);
  injector.injectConnection(socket);
  return { end };
}
