// Counts the SPDK calls and SQL statements of an agent in proxies in front of target and database.
import { join } from "node:path";
import { DatabaseProxy } from "../support/database-proxy.ts";
import { deaf, SocketProxy, type Overhear } from "../support/socket-proxy.ts";

export type Counts = {
  /** Calls by method; a list of everything counts as `method()`. */
  readonly calls: Readonly<Record<string, number>>;
  readonly bytesToTarget: number;
  readonly bytesFromTarget: number;
  /** Statements by verb and table. */
  readonly statements: Readonly<Record<string, number>>;
};

export class CountingProxies implements AsyncDisposable {
  readonly #stack: AsyncDisposableStack;
  readonly #database: DatabaseProxy;
  readonly socket: string;
  #calls = new Map<string, number>();
  #statements = new Map<string, number>();
  #bytesToTarget = 0;
  #bytesFromTarget = 0;

  private constructor(stack: AsyncDisposableStack, socket: string, database: DatabaseProxy) {
    this.#stack = stack;
    this.#database = database;
    this.socket = socket;
  }

  static async open(
    folder: string,
    behind: { readonly socket: string; readonly databaseUrl: string },
  ): Promise<CountingProxies> {
    const listeners = { target: deaf, database: deaf };
    await using stack = new AsyncDisposableStack();
    const path = join(folder, "counted.sock");
    const target = stack.use(await SocketProxy.open(path, behind.socket, () => listeners.target()));
    const database = stack.use(
      await DatabaseProxy.open(behind.databaseUrl, () => listeners.database()),
    );
    const proxies = new CountingProxies(stack.move(), target.path, database);
    listeners.target = () => proxies.#overhearTarget();
    listeners.database = () => proxies.#overhearDatabase();
    return proxies;
  }

  get databaseUrl(): string {
    return this.#database.url;
  }

  reset(): void {
    this.#calls = new Map();
    this.#statements = new Map();
    this.#bytesToTarget = 0;
    this.#bytesFromTarget = 0;
  }

  counts(): Counts {
    return {
      calls: byName(this.#calls),
      bytesToTarget: this.#bytesToTarget,
      bytesFromTarget: this.#bytesFromTarget,
      statements: byName(this.#statements),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }

  #overhearTarget(): ReturnType<Overhear> {
    let unread = "";
    return {
      asked: (bytes) => {
        this.#bytesToTarget += bytes.length;
        const lines = (unread + bytes.toString("latin1")).split("\n");
        unread = lines.pop() ?? "";
        for (const line of lines) add(this.#calls, methodOf(line));
      },
      answered: (bytes) => {
        this.#bytesFromTarget += bytes.length;
      },
    };
  }

  #overhearDatabase(): ReturnType<Overhear> {
    let unread = Buffer.alloc(0);
    // The startup message of a connection has no type byte.
    let started = false;
    return {
      asked: (bytes) => {
        unread = Buffer.concat([unread, bytes]);
        for (;;) {
          const head = started ? 1 : 0;
          if (unread.length < head + 4) return;
          const end = head + unread.readUInt32BE(head);
          if (unread.length < end) return;
          const text = started ? textOf(unread.subarray(0, end)) : undefined;
          if (text !== undefined) add(this.#statements, statementName(text));
          started = true;
          unread = unread.subarray(end);
        }
      },
      answered: () => {},
    };
  }
}

function add(counts: Map<string, number>, name: string): void {
  counts.set(name, (counts.get(name) ?? 0) + 1);
}

function byName(counts: ReadonlyMap<string, number>): Readonly<Record<string, number>> {
  return Object.fromEntries([...counts].toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

function methodOf(line: string): string {
  const method = /"method":"([^"]+)"/.exec(line)?.[1] ?? "?";
  return line.includes('"params":') ? method : `${method}()`;
}

/** The SQL text of a Query or Parse message; undefined for other messages. */
function textOf(message: Buffer): string | undefined {
  const type = String.fromCharCode(message.readUInt8(0));
  if (type === "Q") return message.toString("utf8", 5, message.length - 1);
  if (type !== "P") return undefined;
  const nameEnd = message.indexOf(0, 5);
  return message.toString("utf8", nameEnd + 1, message.indexOf(0, nameEnd + 1));
}

function statementName(text: string): string {
  const [verb = "?"] = text.trimStart().split(/\s/, 1);
  const table =
    /\b(?:insert into|update|from)\s+(\w+)/.exec(text) ?? /^\s*select\s+(\w+)/.exec(text);
  return `${verb} ${table?.[1] ?? ""}`.trim();
}
