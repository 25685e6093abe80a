// A Unix socket in front of another one. Cutting it off is, for who is behind it, what a kill -9 of who
// is in front of it looks like: bytes that were passed on are still read, answers go nowhere.
import { once } from "node:events";
import { rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { z } from "zod";

const request = z.looseObject({
  id: z.number(),
  method: z.string(),
  params: z.record(z.string(), z.unknown()).default({}),
});

export type Request = {
  readonly method: string;
  readonly params: Readonly<Record<string, unknown>>;
  /** Without the digits of its id, which grow with time. */
  readonly bytes: number;
};

function requestOf(line: string): Request {
  const { id, method, params } = request.parse(JSON.parse(line));
  return { method, params, bytes: Buffer.byteLength(line) - String(id).length };
}

export class SocketProxy implements AsyncDisposable {
  readonly path: string;
  readonly #server: Server;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  readonly #requests: Request[] = [];
  #cut = false;
  /** Answers that wait for somebody who is stopped; undefined while nobody is. */
  #held: (() => void)[] | undefined;

  private constructor(path: string, behind: string) {
    this.path = path;
    this.#server = createServer((front) => {
      if (this.#cut) front.destroy();
      else this.#join(front, connect(behind));
    });
  }

  static async open(path: string, behind: string): Promise<SocketProxy> {
    const proxy = new SocketProxy(path, behind);
    proxy.#server.listen(path);
    await once(proxy.#server, "listening");
    return proxy;
  }

  /** What came through to the one behind, in order, since this was last asked. */
  takeRequests(): readonly Request[] {
    return this.#requests.splice(0);
  }

  /** For good: nobody gets through any more. */
  cut(): void {
    this.#cut = true;
    this.drop();
  }

  /** Ends the connections there are; the next one gets through. */
  drop(): void {
    for (const [front, back] of this.#pairs) {
      front.destroy();
      // What was passed on is delivered before the end.
      back.end();
    }
    this.#pairs.clear();
  }

  /** No answer comes through until thaw: who is in front is as good as stopped. */
  freeze(): void {
    this.#held ??= [];
  }

  thaw(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    for (const pass of held) pass();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    this.#server.close();
    await once(this.#server, "close");
    rmSync(this.path, { force: true });
  }

  #join(front: Socket, back: Socket): void {
    const pair = [front, back] as const;
    this.#pairs.add(pair);
    let unread = "";
    front.on("data", (bytes) => {
      back.write(bytes);
      // JSON-RPC has no line ends of its own; the agent ends each request with one.
      const lines = (unread + bytes.toString()).split("\n");
      unread = lines.pop() ?? "";
      for (const line of lines) this.#requests.push(requestOf(line));
    });
    back.on("data", (bytes) => {
      const pass = () => this.#pairs.has(pair) && front.write(bytes);
      if (this.#held === undefined) pass();
      else this.#held.push(pass);
    });
    for (const [one, other] of [pair, [back, front] as const]) {
      one.on("error", () => {});
      one.on("close", () => {
        if (this.#pairs.delete(pair)) other.destroy();
      });
    }
  }
}
