// Minimal JSON-RPC client of the target: requests of one tick are sent in one write, answers are
// matched by id. It is the limit that the connection of the agent is compared with.
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { z } from "zod";
import { LineReader, MAX_ANSWER_BYTES } from "../../src/spdk/lines.ts";

type Waiting = {
  readonly method: string;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
};

const answer = z.object({
  id: z.number(),
  result: z.unknown().optional(),
  error: z.unknown().optional(),
});

export class RawConnection implements AsyncDisposable {
  readonly #socket: Socket;
  readonly #waiting = new Map<unknown, Waiting>();
  #queue = "";
  #lastId = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    const reader = new LineReader(MAX_ANSWER_BYTES);
    let fault: unknown;
    socket.on("data", (chunk: Buffer) => {
      try {
        for (const line of reader.push(chunk)) this.#answered(answer.parse(JSON.parse(line)));
      } catch (error) {
        fault = error;
        socket.destroy();
      }
    });
    socket.on("error", (error) => (fault = error));
    socket.on("close", () => {
      for (const { method, reject } of this.#waiting.values()) {
        reject(new Error(`${method}: the connection to the target ended`, { cause: fault }));
      }
    });
  }

  static async open(path: string): Promise<RawConnection> {
    const socket = connect(path);
    await once(socket, "connect");
    return new RawConnection(socket);
  }

  /** Rejects with the error of the target. */
  call(method: string, params?: object): Promise<unknown> {
    const id = ++this.#lastId;
    if (this.#queue === "") setImmediate(() => this.#write());
    this.#queue += `${JSON.stringify({ jsonrpc: "2.0", id, method, params })}\n`;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { method, resolve, reject });
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#socket.destroyed) return;
    this.#socket.destroy();
    await once(this.#socket, "close");
  }

  #write(): void {
    this.#socket.write(this.#queue);
    this.#queue = "";
  }

  #answered({ id, result, error }: z.infer<typeof answer>): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error === undefined) waiting?.resolve(result);
    else waiting?.reject(new Error(`${waiting.method}: ${JSON.stringify(error)}`));
  }
}
