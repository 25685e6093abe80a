// The database of the demo: an embedded PostgreSQL that is started again when it dies, or, where
// none can run, the one that DATABASE_URL names. That variable is not looked at elsewhere: it may
// well name a database that is no toy.
import { setTimeout as sleep } from "node:timers/promises";
import { PostgresUnsupported } from "./postgres-runtime.ts";
import { type Postgres, startPostgres } from "./postgres.ts";

export type DemoDatabase = AsyncDisposable & {
  readonly url: string;
  /** For people: whose it is and where. */
  readonly description: string;
};

export type DemoDatabaseOptions = {
  /** Of the embedded server alone. */
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
  return new KeptPostgres(postgres, options.report);
}

/** A server that is started again whenever it goes. */
class KeptPostgres implements DemoDatabase {
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
        this.#report(`database is gone; it is started again; its log: ${this.#postgres.logFile}`);
        await sleep(RESTART_DELAY_MS, undefined, { signal });
        await this.#postgres.restart({ signal });
        this.#report(`database runs again as process ${this.#postgres.pid}`);
      } catch (error) {
        // Told to stop, in the middle of whatever it was.
        if (signal.aborted) return;
        const why = error instanceof Error ? error.message : String(error);
        this.#report(`database could not be started: ${why}`);
      }
    }
  }
}
