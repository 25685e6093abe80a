// Client of the control socket of a simulated target (docs/simulator.md).
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { z } from "zod";

const answer = z.looseObject({
  counts: z.record(z.string(), z.number()).optional(),
  stopped: z.string().optional(),
  error: z.string().optional(),
  hex: z.string().optional(),
});

type Answer = z.infer<typeof answer>;

export class Control implements AsyncDisposable {
  readonly #socket: Socket;
  readonly #answers: ((answer: Answer) => void)[] = [];
  readonly #stops: ((method: string) => void)[] = [];

  private constructor(socket: Socket) {
    this.#socket = socket;
    let unread = "";
    socket.setEncoding("utf8");
    socket.on("error", () => {});
    socket.on("data", (chunk: string) => {
      const lines = (unread + chunk).split("\n");
      unread = lines.pop() ?? "";
      for (const line of lines) this.#receive(answer.parse(JSON.parse(line)));
    });
  }

  static async open(path: string): Promise<Control> {
    const socket = connect(path);
    await once(socket, "connect");
    return new Control(socket);
  }

  /** Number of requests that the target has read, by method. */
  async counts(): Promise<Readonly<Record<string, number>>> {
    return (await this.ask({ op: "count" })).counts ?? {};
  }

  async resetCounts(): Promise<void> {
    await this.ask({ op: "reset_counts" });
  }

  /** Resolves once the stop is armed; `stopped` resolves with the method when the target stops. */
  async stopAt(at: {
    readonly when: "before" | "midway" | "after";
    readonly method?: string;
    readonly nth?: number;
  }): Promise<{ readonly stopped: Promise<string> }> {
    const stopped = new Promise<string>((resolve) => this.#stops.push(resolve));
    await this.ask({ op: "stop", ...at });
    return { stopped };
  }

  async resume(): Promise<void> {
    await this.ask({ op: "continue" });
  }

  async drop(rule: { readonly method?: string; readonly nth?: number }): Promise<void> {
    await this.ask({ op: "drop", ...rule });
  }

  async delay(rule: {
    readonly method?: string;
    readonly nth?: number;
    readonly polls: number;
  }): Promise<void> {
    await this.ask({ op: "delay", ...rule });
  }

  /** Delays the effect of a request by `polls` polls, even if the client disconnects. */
  async slow(rule: {
    readonly method?: string;
    readonly nth?: number;
    readonly polls: number;
  }): Promise<void> {
    await this.ask({ op: "slow", ...rule });
  }

  /** Writes to an lvol as a host would through its export. */
  async write(lvol: string, offset: number, bytes: Buffer): Promise<void> {
    await this.ask({ op: "write", lvol, offset, hex: bytes.toString("hex") });
  }

  async read(lvol: string, offset: number, bytes: number): Promise<Buffer> {
    return Buffer.from((await this.ask({ op: "read", lvol, offset, bytes })).hex ?? "", "hex");
  }

  async connectHost(nqn: string, host: string): Promise<void> {
    await this.ask({ op: "connect_host", nqn, host });
  }

  async disconnectHost(nqn: string, host: string): Promise<void> {
    await this.ask({ op: "disconnect_host", nqn, host });
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#socket.destroy();
    return Promise.resolve();
  }

  /** Any order (docs/simulator.md#control); throws what the target refused. */
  async ask(order: object): Promise<Answer> {
    const { promise, resolve } = Promise.withResolvers<Answer>();
    this.#answers.push(resolve);
    this.#socket.write(`${JSON.stringify(order)}\n`);
    const answered = await promise;
    if (answered.error !== undefined) throw new Error(answered.error);
    return answered;
  }

  #receive(one: Answer): void {
    if (one.stopped === undefined) this.#answers.shift()?.(one);
    else this.#stops.shift()?.(one.stopped);
  }
}
