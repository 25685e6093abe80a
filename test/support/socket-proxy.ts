// A Unix socket proxy. For the server behind it, a cut looks like a kill -9 of the client: bytes
// that were passed on are still read, answers are lost.
import { once } from "node:events";
import { rmSync, statSync, utimesSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";

/** Called for each connection; returns callbacks for the bytes of each direction. */
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
  /** Held answers while frozen; undefined: not frozen. */
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
    // Clients tell processes apart by the time of the socket file: successive proxies of one process show
    // the same, that of its own file.
    const own = statSync(behind, { throwIfNoEntry: false });
    if (own !== undefined) utimesSync(path, own.mtime, own.mtime);
    return proxy;
  }

  /** Closes all connections and refuses new ones permanently. */
  cut(): void {
    this.#cut = true;
    this.drop();
  }

  /** Closes the current connections; new ones are accepted. */
  drop(): void {
    for (const [front, back] of this.#pairs) {
      front.destroy();
      // Bytes already passed on are delivered before the connection ends.
      back.end();
    }
    this.#pairs.clear();
  }

  /** Holds answers until thaw: the client behaves as if stopped. */
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
