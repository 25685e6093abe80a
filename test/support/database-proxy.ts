// TCP proxy in front of the PostgreSQL server of the test run: takes the database down and up, and
// stops a commit before it arrives or after it took effect with its answer unsent.
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { deaf, type Overhear } from "./socket-proxy.ts";

export type StopCommit = {
  readonly when: "before" | "after";
  /** The n-th commit from now on; 1 is the next. */
  readonly nth: number;
  /** Text of a statement: no other transactions count. */
  readonly with?: string;
};

type ArmedStop = {
  readonly when: StopCommit["when"];
  readonly with: string | undefined;
  remaining: number;
  readonly reached: () => void;
};

type Link = { readonly client: Socket; readonly server: Socket };

/** The frontend message with which the agent commits: type Query, length, text. */
const COMMIT = Buffer.from("Q\0\0\0\x0bcommit\0", "latin1");

export class DatabaseProxy implements AsyncDisposable {
  readonly #socketPath: string;
  readonly #template: URL;
  readonly #links = new Set<Link>();
  readonly #overhear: Overhear;
  #server: Server | undefined;
  #port = 0;
  #stop: ArmedStop | undefined;
  #commits = 0;
  /** Held bytes of both directions while frozen; undefined: not frozen. */
  #held: (() => void)[] | undefined;

  private constructor(url: string, overhear: Overhear) {
    this.#overhear = overhear;
    this.#template = new URL(url.replace("@/", "@localhost/"));
    const folder = this.#template.searchParams.get("host");
    const port = this.#template.searchParams.get("port") ?? "5432";
    if (folder === null) throw new Error(`no socket folder in ${url}`);
    this.#socketPath = `${folder}/.s.PGSQL.${port}`;
  }

  static async open(url: string, overhear: Overhear = deaf): Promise<DatabaseProxy> {
    const proxy = new DatabaseProxy(url, overhear);
    await proxy.up();
    return proxy;
  }

  /** URL of the database through this proxy. */
  get url(): string {
    const url = new URL(this.#template);
    url.search = "";
    url.hostname = "127.0.0.1";
    url.port = String(this.#port);
    return url.href;
  }

  /** Number of commits that passed. */
  get commits(): number {
    return this.#commits;
  }

  /** Takes the database down: closes the port and all connections. */
  async down(): Promise<void> {
    const server = this.#server;
    if (server === undefined) return;
    this.#server = undefined;
    server.close();
    this.cut();
    await once(server, "close");
  }

  /** Listens on the same port as before. */
  async up(): Promise<void> {
    const server = createServer((client) => this.#link(client));
    server.listen(this.#port, "127.0.0.1");
    await once(server, "listening");
    this.#port = portOf(server.address());
    this.#server = server;
  }

  /** Destroys all connections, and drops held bytes. */
  cut(): void {
    for (const { client, server } of this.#links) {
      client.destroy();
      server.destroy();
    }
    this.#links.clear();
  }

  /** Resolves when the commit is stopped; its connection can then only be cut. */
  stopAt({ when, nth, with: text }: StopCommit): Promise<void> {
    return new Promise((resolve) => {
      this.#stop = { when, with: text, remaining: nth, reached: resolve };
    });
  }

  /** Holds bytes of both directions until thaw. */
  freeze(): void {
    this.#held ??= [];
  }

  thaw(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    for (const pass of held) pass();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.down();
  }

  #link(client: Socket): void {
    const server = connect(this.#socketPath);
    const link = { client, server };
    this.#links.add(link);
    let held = false;
    // Whether the transaction has sent the statement that the present stop is about.
    let isMeant = false;
    const { asked, answered } = this.#overhear();
    client.on("data", (bytes: Buffer) => {
      if (held) return;
      asked(bytes);
      const { with: text } = this.#stop ?? {};
      if (text !== undefined && bytes.includes(text)) isMeant = true;
      if (this.#held !== undefined) {
        this.#held.push(() => server.write(bytes));
        return;
      }
      if (!bytes.includes(COMMIT)) {
        server.write(bytes);
        return;
      }
      this.#commits += 1;
      const stop = text === undefined || isMeant ? this.#stopsHere() : undefined;
      isMeant = false;
      held = stop !== undefined;
      if (stop?.when !== "before") server.write(bytes);
      if (stop?.when === "before") stop.reached();
      if (stop?.when === "after") server.once("data", stop.reached);
    });
    server.on("data", (bytes: Buffer) => {
      if (held) return;
      answered(bytes);
      if (this.#held === undefined) client.write(bytes);
      else this.#held.push(() => client.write(bytes));
    });
    for (const [one, other] of [
      [client, server],
      [server, client],
    ] as const) {
      one.on("error", () => {});
      one.on("close", () => {
        other.destroy();
        this.#links.delete(link);
      });
    }
  }

  #stopsHere(): ArmedStop | undefined {
    const stop = this.#stop;
    if (stop === undefined) return undefined;
    stop.remaining -= 1;
    if (stop.remaining > 0) return undefined;
    this.#stop = undefined;
    return stop;
  }
}

function portOf(address: AddressInfo | string | null): number {
  if (address === null || typeof address === "string") throw new Error("not a TCP port");
  return address.port;
}
