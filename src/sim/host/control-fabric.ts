// Connects simulated hosts to a target in another process, over its control socket
// (docs/simulator.md#control). Each connection has a socket of its own and asks regularly whether
// it still stands and whether the namespace changed; the end of the process ends the socket.
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { z } from "zod";
import type {
  ConnectOutcome,
  ConnectRequest,
  Fabric,
  HostIo,
  IoOutcome,
  Session,
  SessionListener,
} from "./fabric.ts";

const POLL_MS = 5;

const answer = z.object({
  stopped: z.string().optional(),
  error: z.string().optional(),
  status: z.int().optional(),
  cntlid: z.int().optional(),
  connected: z.boolean().optional(),
  changes: z.int().optional(),
  namespace: z
    .object({ uuid: z.string(), nguid: z.string(), bytes: z.number() })
    .nullable()
    .optional(),
  hex: z.string().optional(),
  failed: z.string().optional(),
});

type Answer = z.output<typeof answer>;

export class ControlFabric implements Fabric {
  readonly #path: string;
  readonly #pollMs: number;

  /** `path`: the control socket; it may come and go with the process behind it. */
  constructor(path: string, { pollMs = POLL_MS }: { readonly pollMs?: number } = {}) {
    this.#path = path;
    this.#pollMs = pollMs;
  }

  async connect(request: ConnectRequest, listener: SessionListener): Promise<ConnectOutcome> {
    const line = await Line.open(this.#path);
    if (line === undefined) return { kind: "unreachable" };
    const { nqn, host, address } = request;
    const found = await line.ask({ op: "connect_host", nqn, host, ...address });
    if (found?.cntlid === undefined) {
      line.close();
      return found?.status === undefined
        ? { kind: "unreachable" }
        : { kind: "refused", status: found.status };
    }
    const session = new ControlSession(line, request, found.cntlid, listener);
    session.watch(this.#pollMs);
    return { kind: "connected", session };
  }
}

class ControlSession implements Session {
  readonly cntlid: number;
  readonly #line: Line;
  readonly #request: ConnectRequest;
  readonly #listener: SessionListener;
  #changes = 0;
  #ended = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(line: Line, request: ConnectRequest, cntlid: number, listener: SessionListener) {
    this.#line = line;
    this.#request = request;
    this.cntlid = cntlid;
    this.#listener = listener;
    line.onClosed = () => this.#end();
  }

  watch(pollMs: number): void {
    this.#timer = setTimeout(() => {
      void this.#look().then(() => {
        if (!this.#ended) this.watch(pollMs);
      });
    }, pollMs);
  }

  async scan(): ReturnType<Session["scan"]> {
    const found = await this.#look();
    return found === undefined ? "disconnected" : (found.namespace ?? undefined);
  }

  async io(io: HostIo): Promise<IoOutcome> {
    const { kind, offset } = io;
    const what = io.kind === "write" ? { hex: io.bytes.toString("hex") } : { bytes: io.length };
    const { cntlid } = this;
    const found = await this.#line.ask({ op: "host_io", cntlid, kind, offset, ...what });
    if (found === undefined || found.connected === false) {
      this.#end();
      return { kind: "disconnected" };
    }
    const { failed, error, hex } = found;
    if (failed !== undefined) return { kind: "failed", reason: failed };
    // The I/O crashed the target.
    if (error !== undefined) return { kind: "disconnected" };
    return hex === undefined ? { kind: "done" } : { kind: "done", bytes: Buffer.from(hex, "hex") };
  }

  disconnect(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
    const { nqn, host } = this.#request;
    const { cntlid } = this;
    void this.#line
      .ask({ op: "disconnect_host", nqn, host, cntlid })
      .then(() => this.#line.close());
  }

  /** The state of the connection; undefined: it ended. */
  async #look(): Promise<Answer | undefined> {
    const found = await this.#line.ask({ op: "host_state", cntlid: this.cntlid });
    if (found?.connected !== true) {
      this.#end();
      return undefined;
    }
    const { changes = 0 } = found;
    if (changes > this.#changes && !this.#ended) this.#listener.onNamespaceChanged();
    this.#changes = changes;
    return found;
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#line.close();
    this.#listener.onDisconnected();
  }
}

/** One connection to the control socket: an order at a time goes out, its answer comes in. */
class Line {
  readonly #socket: Socket;
  #waiting: ((answer: Answer | undefined) => void)[] = [];
  onClosed: () => void = () => {};

  private constructor(socket: Socket) {
    this.#socket = socket;
    let unread = "";
    socket.setEncoding("utf8");
    socket.on("error", () => {});
    socket.on("data", (chunk: string) => {
      const lines = (unread + chunk).split("\n");
      unread = lines.pop() ?? "";
      for (const one of lines) this.#receive(answer.parse(JSON.parse(one)));
    });
    socket.on("close", () => {
      const waiting = this.#waiting;
      this.#waiting = [];
      for (const resolve of waiting) resolve(undefined);
      this.onClosed();
    });
  }

  /** Undefined: nothing listens there. */
  static async open(path: string): Promise<Line | undefined> {
    const socket = connect(path);
    try {
      await once(socket, "connect");
      return new Line(socket);
    } catch {
      return undefined;
    }
  }

  /** Undefined: the connection closed first. */
  ask(order: object): Promise<Answer | undefined> {
    if (this.#socket.destroyed) return Promise.resolve(undefined);
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#socket.write(`${JSON.stringify(order)}\n`);
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #receive(one: Answer): void {
    // The target tells everybody when it stands still.
    if (one.stopped === undefined) this.#waiting.shift()?.(one);
  }
}
