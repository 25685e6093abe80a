// Checks the addresses that the agent will listen on before any process is started, so that a port
// in use is reported at once.
import { randomInt } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:net";

/** Below it are the ports of well-known services. */
const FIRST_PORT = 10_000;
const MIN_PORTS = 1_000;
const MAX_TRIES = 100;

/**
 * Returns HOST:PORT, for port 0 with a free port. Throws if it cannot listen there. A free port is one that the kernel
 * gives to nobody by itself, so that it stays free until the agent listens on it, and while the agent is restarted.
 */
export async function freeAddress(
  listen: string,
  variable = "STORAGE_NODE_LISTEN",
): Promise<string> {
  const colon = listen.lastIndexOf(":");
  const host = listen.slice(0, colon);
  const port = Number(listen.slice(colon + 1));
  const refused = (cause: unknown) =>
    new Error(`cannot serve on ${listen} (set ${variable} to use another address)`, { cause });
  for (let tries = 1; ; tries += 1) {
    try {
      const tried = port === 0 ? portToTry() : port;
      return `${host}:${await listenOnce(host.replace(/^\[(.*)\]$/, "$1"), tried)}`;
    } catch (cause) {
      const isTaken = cause instanceof Error && "code" in cause && cause.code === "EADDRINUSE";
      if (port !== 0 || !isTaken || tries === MAX_TRIES) throw refused(cause);
    }
  }
}

/** Listens there for a moment, and returns the port. */
async function listenOnce(host: string, port: number): Promise<number> {
  const server = createServer();
  server.listen({ host, port, exclusive: true });
  await once(server, "listening");
  const bound = server.address();
  server.close();
  await once(server, "close");
  return typeof bound === "object" && bound !== null ? bound.port : port;
}

/** A port below those that the kernel gives to whoever asks for any; 0 where there are too few of them. */
function portToTry(): number {
  const [given = ""] = readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8").split("\t");
  const end = Number(given);
  return end - FIRST_PORT < MIN_PORTS ? 0 : randomInt(FIRST_PORT, end);
}

/**
 * HOST:PORT for metrics; "off" if wanted is undefined. chosen: the user set it, so a port in use is
 * an error; otherwise any free port is used instead.
 */
export async function freeHttpAddress(
  wanted: string | undefined,
  chosen: boolean,
): Promise<string> {
  if (wanted === undefined) return "off";
  if (chosen) return await freeAddress(wanted, "STORAGE_NODE_HTTP_LISTEN");
  try {
    return await freeAddress(wanted);
  } catch {
    // The default port is in use, for example by another agent.
    return await freeAddress("127.0.0.1:0");
  }
}
