// A TCP port that speaks TLS. Handshakes that do not end and clients that connect too often do not keep
// others away.
import { once } from "node:events";
import { createServer as createTcpServer, type Socket } from "node:net";
import { createServer, type TLSSocket } from "node:tls";
import type { Logger } from "pino";
import { CLIENT_CONNECTIONS, HANDSHAKE_MS, HANDSHAKES } from "../limits.ts";
import type { Access } from "./access.ts";
import { Peer } from "./peer.ts";
import { Seldom } from "./seldom.ts";
import type { TlsFiles } from "./tls-files.ts";

export type TlsListenerOptions = {
  readonly at: { readonly host: string; readonly port: number };
  readonly protocol: "h2" | "http/1.1";
  readonly access: Access;
  readonly log: Logger;
  readonly onPeer: (peer: Peer) => void;
};

/** Its disposal ends all connections. */
export type TlsListener = AsyncDisposable & {
  readonly port: number;

  /** Takes no further connections. */
  readonly close: () => void;
};

/** Rejects if the address cannot be listened on. */
export async function listenTls(options: TlsListenerOptions): Promise<TlsListener> {
  const { at, access, protocol, log, onPeer } = options;
  const certificates = () => ({ ...access.tls.context });
  const tls = createServer({
    ...certificates(),
    requestCert: true,
    // A client without a valid certificate may ask for the health of the node.
    rejectUnauthorized: false,
    ALPNProtocols: [protocol],
  });
  const handshakes = new Handshakes();
  const peers = new Peers(log);
  let used = access.tls;
  const stopLooking = access.onLook(() => {
    if (access.tls === used) return;
    used = access.tls;
    tls.setSecureContext(certificates());
  });
  tls.on("secureConnection", (socket) => {
    const cas = handshakes.end(socket);
    socket.on("error", () => undefined);
    const peer =
      cas !== undefined && isServed(socket, protocol) ? new Peer(socket, access, cas) : undefined;
    if (peer !== undefined && peers.add(peer)) onPeer(peer);
    else socket.destroy();
  });
  tls.on("tlsClientError", (error, socket) => {
    handshakes.end(socket);
    log.debug({ peer: socket.remoteAddress, err: error }, "TLS handshake failed");
  });
  const tcp = createTcpServer((socket) => {
    handshakes.begin(socket, used.cas);
    tls.emit("connection", socket);
  });
  tcp.listen({ ...at, exclusive: true });
  await once(tcp, "listening");
  tcp.on("error", (error) => log.error({ err: error, at }, "cannot accept a connection"));
  const address = tcp.address();
  const closed = once(tcp, "close");
  const close = () => {
    stopLooking();
    handshakes.endAll();
    tcp.close();
  };
  return {
    port: typeof address === "object" && address !== null ? address.port : 0,

    close,
    [Symbol.asyncDispose]: async () => {
      if (tcp.listening) close();
      for (const peer of peers.all) peer.socket.destroy();
      await closed;
    },
  };
}

type Cas = TlsFiles["cas"];

type Handshake = { readonly socket: Socket; readonly cas: Cas; readonly limit: NodeJS.Timeout };

/** Connections that have not said who they are. */
class Handshakes {
  readonly #open = new Map<string, Handshake>();

  /** cas: those that a certificate is verified with. */
  begin(socket: Socket, cas: Cas): void {
    const key = keyOf(socket);
    const limit = setTimeout(() => this.#drop(key, socket), HANDSHAKE_MS);
    limit.unref();
    this.#open.set(key, { socket, cas, limit });
    socket.on("error", () => undefined);
    socket.once("close", () => {
      if (this.#open.get(key)?.socket === socket) this.#remove(key);
    });
    if (this.#open.size <= HANDSHAKES) return;
    // An honest one takes some milliseconds, so it is not the oldest.
    for (const [oldest, { socket }] of this.#open) {
      this.#drop(oldest, socket);
      break;
    }
  }

  /** The CAs with which it was begun; undefined: it was dropped. */
  end(socket: Socket): Cas | undefined {
    const key = keyOf(socket);
    const cas = this.#open.get(key)?.cas;
    this.#remove(key);
    return cas;
  }

  endAll(): void {
    for (const { socket, limit } of this.#open.values()) {
      clearTimeout(limit);
      socket.destroy();
    }
    this.#open.clear();
  }

  #drop(key: string, socket: Socket): void {
    socket.destroy();
    this.#remove(key);
  }

  #remove(key: string): void {
    clearTimeout(this.#open.get(key)?.limit);
    this.#open.delete(key);
  }
}

/** Both ends of a connection: TLS shows another socket object than the one that was accepted. */
function keyOf({ localAddress, localPort, remoteAddress, remotePort }: Socket): string {
  return [localAddress, localPort, remoteAddress, remotePort].join(" ");
}

/** HTTP/2 has to be agreed upon, and a client may be gone already. */
function isServed({ remoteAddress, alpnProtocol }: TLSSocket, protocol: string): boolean {
  return remoteAddress !== undefined && (protocol !== "h2" || alpnProtocol === protocol);
}

/** Established connections, so many of each client. */
class Peers {
  readonly all = new Set<Peer>();
  readonly #log: Logger;
  readonly #told = new Seldom();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Takes it, if need be instead of the oldest of this client without a call; false: there is none. */
  add(peer: Peer): boolean {
    const { client } = peer;
    const others = [...this.all].filter((other) => other.client === client);
    if (others.length >= CLIENT_CONNECTIONS) {
      const idle = others.find(({ calls }) => calls.size === 0);
      if (this.#told.isDue(client)) {
        const ended = idle?.address ?? peer.address;
        this.#log.warn({ client, limit: CLIENT_CONNECTIONS, ended }, "too many connections");
      }
      if (idle === undefined) return false;
      idle.socket.destroy();
      this.all.delete(idle);
    }
    this.all.add(peer);
    peer.socket.once("close", () => this.all.delete(peer));
    return true;
  }
}
