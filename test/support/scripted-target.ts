// A target whose answers are scripted by the test, on a real Unix socket: for tests of framing,
// timing and failures of the SPDK client, where exact bytes and times matter.

import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

export type ScriptedRequest = {
  readonly id: number;
  readonly method: string;
  readonly params: Readonly<Record<string, unknown>> | undefined;
};

/** Undefined: no answer now; the test may call `answer` later. */
export type Script = (
  request: ScriptedRequest,
) => { result: unknown } | { error: { code: number; message: string } } | undefined;

export class ScriptedTarget implements AsyncDisposable {
  readonly path: string;
  /** Every request that arrived, in order, over all connections. */
  readonly requests: ScriptedRequest[] = [];
  script: Script;
  connections = 0;
  #server: Server | undefined;
  readonly #folder: string;
  readonly #sockets = new Set<Socket>();
  #latest: Socket | undefined;

  private constructor(folder: string, script: Script) {
    this.#folder = folder;
    this.path = join(folder, "spdk.sock");
    this.script = script;
  }

  /** Creates a target that does not listen yet: its socket does not exist. */
  static async create(script: Script = () => undefined): Promise<ScriptedTarget> {
    return new ScriptedTarget(await mkdtemp(join(tmpdir(), "spdk-")), script);
  }

  static async listening(script?: Script): Promise<ScriptedTarget> {
    const target = await ScriptedTarget.create(script);
    await target.listen();
    return target;
  }

  async listen(): Promise<void> {
    const server = createServer((socket) => this.#accept(socket));
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(this.path, resolve));
  }

  /** Closes every connection and the socket, as a target does when it exits. */
  async stop(): Promise<void> {
    const server = this.#server;
    if (server === undefined) return;
    this.#server = undefined;
    this.hangUp();
    await new Promise((resolve) => server.close(resolve));
  }

  hangUp(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Stops reading on the latest connection until `resume`. */
  pause(): void {
    this.#latest?.pause();
  }

  resume(): void {
    this.#latest?.resume();
  }

  /** Sends raw bytes on the latest connection. */
  send(bytes: string | Buffer): void {
    this.#latest?.write(bytes);
  }

  answer(id: number, body: object): void {
    this.send(`${JSON.stringify({ jsonrpc: "2.0", id, ...body })}\n`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await rm(this.#folder, { recursive: true, force: true });
  }

  #accept(socket: Socket): void {
    this.#latest = socket;
    this.#sockets.add(socket);
    this.connections += 1;
    let rest = "";
    socket.on("close", () => this.#sockets.delete(socket));
    // Many tests close the client in the middle of an answer.
    socket.on("error", () => {});
    socket.on("data", (chunk) => {
      const lines = (rest + chunk.toString()).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) this.#serve(socket, line);
    });
  }

  #serve(socket: Socket, line: string): void {
    const request: unknown = JSON.parse(line);
    if (!isRequest(request)) throw new Error(`not a request: ${line}`);
    this.requests.push(request);
    const body = this.script(request);
    if (body === undefined) return;
    socket.write(`${JSON.stringify({ jsonrpc: "2.0", id: request.id, ...body })}\n`);
  }
}

function isRequest(value: unknown): value is ScriptedRequest {
  return typeof value === "object" && value !== null && "id" in value && "method" in value;
}
