// The Unix socket for commands on the node. Who may open it is decided by its file: mode 0660, the owner
// and the group that the agent runs as, or the group of its folder where that has setgid.
import { once } from "node:events";
import { lstatSync, unlinkSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import type { Logger } from "pino";

const UMASK = 0o117;

/** Its disposal ends all connections and removes the file. */
export type UnixListener = AsyncDisposable & {
  /** Takes no further connections. */
  readonly close: () => void;
};

/**
 * Replaces a socket that nobody listens on, and no other file. Rejects if the path cannot be listened on.
 */
export async function listenUnix(
  path: string,
  onSocket: (socket: Socket) => void,
  log?: Pick<Logger, "error">,
): Promise<UnixListener> {
  await removeDeadSocket(path);
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    socket.on("error", () => undefined);
    onSocket(socket);
  });
  // The file is made within listen(): at no moment is it open to others.
  const umask = process.umask(UMASK);
  try {
    server.listen(path);
  } finally {
    process.umask(umask);
  }
  await once(server, "listening");
  server.on("error", (error) => log?.error({ err: error, path }, "cannot accept a connection"));
  const closed = once(server, "close");
  const close = () => server.close();
  return {
    close,
    [Symbol.asyncDispose]: async () => {
      if (server.listening) close();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

async function removeDeadSocket(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket()) throw new Error("a file that is no socket is there");
  if (await answers(path)) throw new Error("another process listens there");
  unlinkSync(path);
}

function answers(path: string): Promise<boolean> {
  const socket = connect(path);
  return new Promise((resolve) => {
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}
