// A Unix socket in front of another one. Cutting it off is, for who is behind it, what a kill -9 of who
// is in front of it looks like: bytes that were passed on are still read, answers go nowhere.
import { once } from "node:events";
import { rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";

/** Called for each connection: who is told the bytes that go over it. */
export type Overhear = () => {
  readonly asked: (bytes: Buffer) => void;
  readonly answered: (bytes: Buffer) => void;
};

export const deaf: Overhear = () => ({ asked: () => {}, answered: () => {} });

export class SocketProxy implements AsyncDisposable {
  readonly path: string;
  readonly #server: Server;
  readonly #overhear: Overhear;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  #cut = false;
  /** Answers that wait for somebody who is stopped; undefined while nobody is. */
  #held: (() => void)[] | undefined;

  private constructor(path: string, behind: string, overhear: Overhear) {
    this.path = path;
    this.#overhear = overhear;
    this.#server = createServer((front) => {
      if (this.#cut) front.destroy();
      else this.#join(front, connect(behind));
    });
  }

  static async open(path: string, behind: string, overhear: Overhear = deaf): Promise<SocketProxy> {
    const proxy = new SocketProxy(path, behind, overhear);
    proxy.#server.listen(path);
    await once(proxy.#server, "listening");
    return proxy;
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
    const { asked, answered } = this.#overhear();
    front.on("data", (bytes) => {
      asked(bytes);
      back.write(bytes);
    });
    back.on("data", (bytes) => {
      answered(bytes);
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
