// The database of the demo: an embedded PostgreSQL that is restarted when it ends. Only where that
// cannot run does the demo use DATABASE_URL, because it may name a production database.
import { setTimeout as sleep } from "node:timers/promises";
import { PostgresUnsupported } from "./postgres-runtime.ts";
import { type Postgres, startPostgres } from "./postgres.ts";

export type DemoDatabase = AsyncDisposable & {
  readonly url: string;
  /** For people: which server it is, and its URL. */
  readonly description: string;
};

export type DemoDatabaseOptions = {
  /** State folder of the embedded server. */
  readonly stateDir: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly signal: AbortSignal;
  readonly report: (sentence: string) => void;
};

const NAME = "storage_node";
const RESTART_DELAY_MS = 1_000;

/** Throws PostgresUnsupported where no embedded server can run and DATABASE_URL is not set. */
export async function openDemoDatabase(options: DemoDatabaseOptions): Promise<DemoDatabase> {
  const { stateDir, env, signal } = options;
  let postgres: Postgres;
  try {
    postgres = await startPostgres({ stateDir, signal });
  } catch (error) {
    const url = env["DATABASE_URL"];
    if (!(error instanceof PostgresUnsupported) || url === undefined || url === "") throw error;
    return {
      url,
      description: `from DATABASE_URL; the embedded PostgreSQL cannot run here: ${error.why}`,
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
  }
  try {
    await postgres.createDatabase(NAME);
  } catch (error) {
    await postgres[Symbol.asyncDispose]();
    throw error;
  }
  return new SupervisedPostgres(postgres, options.report);
}

/** Restarts the server whenever it ends. */
class SupervisedPostgres implements DemoDatabase {
  readonly url: string;
  readonly description: string;
  readonly #postgres: Postgres;
  readonly #report: (sentence: string) => void;
  readonly #stop = new AbortController();
  readonly #watch: Promise<void>;

  constructor(postgres: Postgres, report: (sentence: string) => void) {
    this.url = postgres.url(NAME);
    this.description = `pid ${postgres.pid}  ${this.url}`;
    this.#postgres = postgres;
    this.#report = report;
    this.#watch = this.#keepRunning();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#watch;
    await this.#postgres[Symbol.asyncDispose]();
  }

  async #keepRunning(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      try {
        await this.#postgres.ended({ signal });
        this.#report(`database ended; restarting it; its log: ${this.#postgres.logFile}`);
        await sleep(RESTART_DELAY_MS, undefined, { signal });
        await this.#postgres.restart({ signal });
        this.#report(`database restarted as process ${this.#postgres.pid}`);
      } catch (error) {
        if (signal.aborted) return;
        const why = error instanceof Error ? error.message : String(error);
        this.#report(`database could not be started: ${why}`);
      }
    }
  }
}
