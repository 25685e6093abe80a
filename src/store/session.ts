// From "a URL" to "rows may be written": the schema is checked, the node is registered, and only then
// the writer starts. Tries for ever while the database is away; never migrates.
import type { Logger } from "pino";
import { connect, isDatabaseDown, type Database } from "./database.ts";
import { schemaState } from "./migrate.ts";
import type { Rows } from "./rows.ts";
import { NodeMismatch, registerNode } from "./statements.ts";
import type { Writer } from "./writer.ts";

const RETRY_MS = 1_000;

export type StoreStatus = { readonly ok: boolean; readonly reason: string; readonly since: Date };

/** The agent must not go on with this database. */
export class WrongDatabase extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "WrongDatabase";
  }
}

export type StoreSessionOptions = {
  readonly database: Database;
  readonly writer: Writer;
  readonly rows: Rows;
  readonly migrationsDir: string;
  readonly log: Logger;
  readonly config: {
    readonly nodeId: string;
    readonly fleet: string;
    readonly nqnPrefix: string;
  };
};

export class StoreSession {
  readonly #options: StoreSessionOptions;
  readonly #failed = Promise.withResolvers<never>();
  #status: StoreStatus = { ok: false, reason: "no connection yet", since: new Date() };
  #timer: NodeJS.Timeout | undefined;
  #starting: Promise<void> | undefined;
  #closed = false;

  constructor(options: StoreSessionOptions) {
    this.#options = options;
    // Nobody may be waiting for it yet.
    this.#failed.promise.catch(() => {});
    options.writer.onConnectedChange((connected) => {
      this.#setStatus(connected, connected ? "" : "the database cannot be reached");
    });
  }

  get status(): StoreStatus {
    return this.#status;
  }

  get failed(): Promise<never> {
    return this.#failed.promise;
  }

  start(): void {
    this.#starting = this.#try().finally(() => {
      this.#starting = undefined;
    });
  }

  async #try(): Promise<void> {
    try {
      const reason = await this.#check();
      if (reason === undefined) {
        this.#options.writer.start();
        return;
      }
      this.#setStatus(false, reason);
    } catch (error) {
      if (error instanceof WrongDatabase || error instanceof NodeMismatch) {
        this.#setStatus(false, error.message);
        this.#failed.reject(error);
        return;
      }
      const down = isDatabaseDown(error);
      const message = error instanceof Error ? error.message : String(error);
      this.#setStatus(false, down ? `the database cannot be reached: ${message}` : message);
      this.#options.log[down ? "debug" : "error"]({ err: error }, "database is not usable");
    }
    if (!this.#closed) this.#timer = setTimeout(() => this.start(), RETRY_MS);
  }

  /** Why the database cannot be used yet; undefined when it can. */
  async #check(): Promise<string | undefined> {
    const { database, migrationsDir, config } = this.#options;
    const client = await connect(database.pool);
    try {
      const state = await schemaState(client, migrationsDir);
      switch (state.kind) {
        case "older":
          return `the schema is older than this agent: run "storage-node migrate"`;
        case "newer":
          throw new WrongDatabase("the schema is newer than this agent: use a newer agent");
        case "edited":
          throw new WrongDatabase(`migration ${state.name} was edited after it ran`);
        case "current":
          await registerNode(client, config);
          return undefined;
      }
    } finally {
      client.release();
    }
  }

  #setStatus(ok: boolean, reason: string): void {
    if (ok === this.#status.ok && reason === this.#status.reason) return;
    const since = ok === this.#status.ok ? this.#status.since : new Date();
    this.#status = { ok, reason, since };
    if (!ok) this.#options.log.warn({ reason }, "database is not usable");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#starting;
  }
}
