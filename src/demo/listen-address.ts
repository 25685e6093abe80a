// The address that the agent will serve on, tried before anything is started: a port in use is said
// at once and in words, not after everything else is up.
import { once } from "node:events";
import { createServer } from "node:net";

/** HOST:PORT that can be listened on now; for port 0 a free one. Throws, saying why it cannot. */
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
    const hint = `${variable} chooses another address`;
    throw new Error(`cannot serve on ${listen} (${hint})`, { cause });
  }
  const bound = server.address();
  server.close();
  await once(server, "close");
  return typeof bound === "object" && bound !== null ? `${host}:${bound.port}` : listen;
}

/** Where metrics go: where the user said, else the usual place, else any free one. */
export async function freeHttpAddress(
  wanted: string | undefined,
  chosen: boolean,
): Promise<string> {
  if (wanted === undefined) return "off";
  if (chosen) return await freeAddress(wanted, "STORAGE_NODE_HTTP_LISTEN");
  try {
    return await freeAddress(wanted);
  } catch {
    // Another agent has it; nobody asked for that very port.
    return await freeAddress("127.0.0.1:0");
  }
}
