// The HTTP server for monitoring: /metrics for Prometheus, /healthz and /readyz for probes. It
// never changes anything and never calls the gRPC API. Over TLS, anybody may ask whether the node is ready;
// why it is not, and the metrics, are for those who may read them.
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import type { Logger } from "pino";
import type { Access } from "../access/access.ts";
import type { Peer } from "../access/peer.ts";
import { listenTls } from "../access/tls-listener.ts";
import { Refusal } from "../model/errors.ts";
import { limitConnections } from "./http-connections.ts";
import { hostAndPort, ListenError } from "./listen.ts";
import { refuseMetrics } from "./permissions.ts";

export type HttpOptions = {
  /** HOST:PORT; port 0 binds a free port. */
  readonly listen: string;
  /** Who may read the metrics, over TLS; undefined: without TLS, everybody. */
  readonly access: Access | undefined;
  readonly log: Logger;
  /** Returns the metrics in Prometheus' text format. */
  readonly scrape: () => Promise<string>;
  /** Reasons why the agent is not ready; empty if it is ready. */
  readonly notReady: () => readonly string[];
};

export type RunningHttp = AsyncDisposable & {
  /** HOST:PORT as bound. */
  readonly address: string;
};

const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";
const TEXT_TYPE = "text/plain; charset=utf-8";
/** Limit for receiving a whole request, headers and body. */
const REQUEST_LIMIT_MS = 10_000;

/** Throws ListenError. */
export async function startHttp(options: HttpOptions): Promise<RunningHttp> {
  const peers = new WeakMap<Socket, Peer>();
  const server = createServer({ requestTimeout: REQUEST_LIMIT_MS }, (request, response) => {
    const peer = peers.get(request.socket);
    answer(options, { request, response, refusal: refusalOf(options, peer) }).catch(
      (error: unknown) => {
        end(response, 500, error instanceof Error ? error.message : String(error));
      },
    );
  });
  const { listen } = options;
  const host = listen.slice(0, listen.lastIndexOf(":"));
  const { port, stop } = await open(server, options, (peer) => {
    peers.set(peer.socket, peer);
    server.emit("connection", peer.socket);
  }).catch((error: unknown) => {
    throw new ListenError(listen, error);
  });
  return { address: `${host}:${port}`, [Symbol.asyncDispose]: stop };
}

type Opened = { readonly port: number; readonly stop: () => Promise<void> };

async function open(
  server: Server,
  { listen, access, log }: HttpOptions,
  onPeer: (peer: Peer) => void,
): Promise<Opened> {
  const at = hostAndPort(listen);
  if (access !== undefined) {
    // It checks the times of requests only while it listens itself.
    server.setTimeout(REQUEST_LIMIT_MS);
    const listener = await listenTls({ at, protocol: "http/1.1", access, log, onPeer });
    return { port: listener.port, stop: async () => await listener[Symbol.asyncDispose]() };
  }
  limitConnections(server, log);
  server.listen({ ...at, exclusive: true });
  await once(server, "listening");
  const stop = async () => {
    server.closeAllConnections();
    await new Promise<void>((resolve) => {
      server.close(() => resolve());
    });
  };
  return { port: portOf(server.address()), stop };
}

/** Why this peer gets neither metrics nor reasons. */
function refusalOf({ access }: HttpOptions, peer: Peer | undefined): Refusal | undefined {
  if (access === undefined) return undefined;
  try {
    if (peer === undefined) throw new Refusal("NO_CERTIFICATE", "the connection is gone");
    refuseMetrics(peer.caller());
    return undefined;
  } catch (error) {
    if (error instanceof Refusal) return error;
    throw error;
  }
}

async function answer(
  { scrape, notReady }: HttpOptions,
  {
    request: { method = "", url = "" },
    response,
    refusal,
  }: {
    readonly request: IncomingMessage;
    readonly response: ServerResponse;
    readonly refusal: Refusal | undefined;
  },
): Promise<void> {
  if (method !== "GET" && method !== "HEAD")
    return end(response, 405, "method not allowed: use GET or HEAD");
  switch (url.split("?", 1)[0]) {
    case "/metrics":
      if (refusal === undefined) return end(response, 200, await scrape(), METRICS_TYPE);
      return end(
        response,
        refusal.code === "UNAUTHENTICATED" ? 401 : 403,
        `${refusal.reason}: ${refusal.message}`,
      );
    case "/healthz":
      return end(response, 200, "ok");
    case "/readyz": {
      const reasons = notReady();
      if (reasons.length === 0) return end(response, 200, "ready");
      const shown = refusal === undefined ? reasons : [];
      return end(response, 503, ["not ready", ...shown].join("\n"));
    }
    default:
      return end(response, 404, "not found: this port serves /metrics, /healthz and /readyz");
  }
}

function end(response: ServerResponse, code: number, text: string, type = TEXT_TYPE): void {
  response.writeHead(code, { "content-type": type, "cache-control": "no-store" });
  response.end(text.endsWith("\n") ? text : `${text}\n`);
}

function portOf(address: string | AddressInfo | null): number {
  return typeof address === "object" && address !== null ? address.port : 0;
}
