// The JSON-RPC socket of the target. Each poll first sends finished answers to every client, then
// starts its requests; effects are applied at the end of the poll
// (docs/spdk-contract.md#timing-and-pipelining).
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { ClientConnection } from "./connection.ts";
import type { Engine } from "./engine.ts";

/** Clients served at a time; further connections are accepted and wait. */
const MAX_CLIENTS = 64;

export type ServerOptions = {
  readonly socketPath: string;
  readonly pollMs: number;
  readonly engine: Engine;
  /** Called when the target aborted: the simulated form of a crash. */
  readonly onFatal: (error: unknown) => void;
};

export class TargetServer {
  readonly #options: ServerOptions;
  readonly #server: Server;
  readonly #clients = new Map<Socket, ClientConnection>();
  readonly #waiting: Socket[] = [];
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(options: ServerOptions) {
    this.#options = options;
    this.#server = createServer({ allowHalfOpen: true }, (socket) => {
      if (this.#closed) socket.destroy();
      else if (this.#clients.size < MAX_CLIENTS) this.#serve(socket);
      else this.#waiting.push(socket);
    });
  }

  async listen(): Promise<void> {
    this.#server.listen(this.#options.socketPath);
    await once(this.#server, "listening");
  }

  /** Continues after the gate stopped the target. */
  resume(): void {
    this.#options.engine.gate.stopped = false;
    this.#wake();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    for (const socket of [...this.#clients.keys(), ...this.#waiting]) socket.destroy();
    if (!this.#server.listening) return;
    this.#server.close();
    await once(this.#server, "close");
  }

  #serve(socket: Socket): void {
    const client = new ClientConnection(socket, this.#options.engine, () => this.#wake());
    this.#clients.set(socket, client);
    socket.once("close", () => {
      // Requests that the client sent before it disconnected are still read and executed.
      this.#pollAfterwards(socket, client);
    });
  }

  #pollAfterwards(socket: Socket, client: ClientConnection): void {
    if (client.busy && !this.#closed) {
      this.#wake();
      setTimeout(() => this.#pollAfterwards(socket, client), this.#options.pollMs);
      return;
    }
    this.#clients.delete(socket);
    const next = this.#waiting.shift();
    if (next !== undefined) this.#serve(next);
  }

  #wake(): void {
    if (this.#closed) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#poll();
    }, this.#options.pollMs);
  }

  #poll(): void {
    const { engine, onFatal } = this.#options;
    if (engine.gate.stopped) return;
    try {
      for (const client of this.#clients.values()) {
        client.flush();
        client.startRequests();
      }
      engine.completeDue();
    } catch (error) {
      onFatal(error);
      return;
    }
    const more = engine.busy || [...this.#clients.values()].some((client) => client.busy);
    if (more) this.#wake();
  }
}
