// Passes TCP connections on to an agent, to break them under its clients.
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";

export class TcpRelay implements AsyncDisposable {
  readonly address: string;
  readonly #server: Server;
  readonly #sockets: Set<Socket>;

  private constructor(address: string, server: Server, sockets: Set<Socket>) {
    this.address = address;
    this.#server = server;
    this.#sockets = sockets;
  }

  /** behind: HOST:PORT, or the path of a Unix socket */
  static async open(behind: string): Promise<TcpRelay> {
    const [host, port] = behind.split(":");
    const connectBehind = () =>
      behind.startsWith("/") ? connect(behind) : connect(Number(port), host);
    const sockets = new Set<Socket>();
    const server = createServer((front) => {
      const back = connectBehind();
      for (const [one, other] of [
        [front, back],
        [back, front],
      ] as const) {
        sockets.add(one);
        one.on("error", () => {});
        one.on("close", () => other.destroy());
        one.pipe(other);
      }
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return new TcpRelay(`127.0.0.1:${portOf(server.address())}`, server, sockets);
  }

  /** Resets every connection. */
  drop(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.drop();
    this.#server.close();
    await once(this.#server, "close");
  }
}

function portOf(address: string | AddressInfo | null): number {
  return typeof address === "object" && address !== null ? address.port : 0;
}
