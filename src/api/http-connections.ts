// The connections of the HTTP port without TLS, of which all clients together have as many as one client has
// over TLS: the oldest one without a request gives way to another.
import type { Server } from "node:http";
import type { Socket } from "node:net";
import type { Logger } from "pino";
import { Seldom } from "../access/seldom.ts";
import { CLIENT_CONNECTIONS } from "../limits.ts";

/** Ends what is too much among the connections that the server accepts. */
export function limitConnections(server: Server, log: Logger): void {
  /** In the order in which they were accepted, with the requests that are not answered yet. */
  const open = new Map<Socket, number>();
  const told = new Seldom();
  server.on("connection", (socket) => {
    socket.once("close", () => open.delete(socket));
    open.set(socket, 0);
    if (open.size <= CLIENT_CONNECTIONS) return;
    const idle = [...open].find(([other, requests]) => requests === 0 && other !== socket);
    const [ended] = idle ?? [socket];
    if (told.isDue("http")) {
      const limit = CLIENT_CONNECTIONS;
      log.warn({ limit, ended: ended.remoteAddress }, "too many HTTP connections");
    }
    ended.destroy();
    open.delete(ended);
  });
  server.on("request", ({ socket }, response) => {
    const count = (by: number) => {
      const requests = open.get(socket);
      if (requests !== undefined) open.set(socket, requests + by);
    };
    count(1);
    response.once("close", () => count(-1));
  });
}
