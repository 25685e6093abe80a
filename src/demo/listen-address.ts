// Checks the addresses that the agent will listen on before any process is started, so that a port
// in use is reported at once.
import { once } from "node:events";
import { createServer } from "node:net";

/** Returns HOST:PORT, for port 0 with a free port. Throws if it cannot listen there. */
export async function freeAddress(
  listen: string,
  variable = "STORAGE_NODE_LISTEN",
): Promise<string> {
  const colon = listen.lastIndexOf(":");
  const host = listen.slice(0, colon);
  const server = createServer();
  try {
    server.listen({
      host: host.replace(/^\[(.*)\]$/, "$1"),
      port: Number(listen.slice(colon + 1)),
      exclusive: true,
    });
    await once(server, "listening");
  } catch (cause) {
    const hint = `set ${variable} to use another address`;
    throw new Error(`cannot serve on ${listen} (${hint})`, { cause });
  }
  const bound = server.address();
  server.close();
  await once(server, "close");
  return typeof bound === "object" && bound !== null ? `${host}:${bound.port}` : listen;
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
