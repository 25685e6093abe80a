// The HTTP server for monitoring: /metrics for Prometheus, /healthz and /readyz for probes. It
// never changes anything and never calls the gRPC API.
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { ListenError } from "./server.ts";

export type HttpOptions = {
  /** HOST:PORT; port 0 binds a free port. */
  readonly listen: string;
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
  const server = createServer({ requestTimeout: REQUEST_LIMIT_MS }, (request, response) => {
    const { method = "", url = "" } = request;
    answer(options, { method, path: url.split("?", 1)[0] ?? "" }, response).catch(
      (error: unknown) => {
        end(response, 500, error instanceof Error ? error.message : String(error));
      },
    );
  });
  const colon = options.listen.lastIndexOf(":");
  const host = options.listen.slice(0, colon);
  await bind(server, options.listen, {
    host: host.replace(/^\[(.*)\]$/, "$1"),
    port: Number(options.listen.slice(colon + 1)),
  });
  return {
    address: `${host}:${portOf(server.address())}`,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
    },
  };
}

async function answer(
  { scrape, notReady }: HttpOptions,
  { method, path }: { readonly method: string; readonly path: string },
  response: ServerResponse,
): Promise<void> {
  if (method !== "GET" && method !== "HEAD")
    return end(response, 405, "method not allowed: use GET or HEAD");
  switch (path) {
    case "/metrics":
      return end(response, 200, await scrape(), METRICS_TYPE);
    case "/healthz":
      return end(response, 200, "ok");
    case "/readyz": {
      const reasons = notReady();
      return reasons.length === 0
        ? end(response, 200, "ready")
        : end(response, 503, `not ready\n${reasons.join("\n")}`);
    }
    default:
      return end(response, 404, "not found: this port serves /metrics, /healthz and /readyz");
  }
}

function end(response: ServerResponse, code: number, text: string, type = TEXT_TYPE): void {
  response.writeHead(code, { "content-type": type, "cache-control": "no-store" });
  response.end(text.endsWith("\n") ? text : `${text}\n`);
}

function bind(
  server: Server,
  listen: string,
  at: { readonly host: string; readonly port: number },
): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", (error) => reject(new ListenError(listen, error)));
    server.listen({ ...at, exclusive: true }, () => resolve());
  });
}

function portOf(address: string | AddressInfo | null): number {
  return typeof address === "object" && address !== null ? address.port : 0;
}
