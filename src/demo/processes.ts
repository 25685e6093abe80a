// Supervises the child processes of the demo and restarts each when it ends. A killed demo leaves
// its children running; the next demo finds them by their pid files and ends them. It never ends
// another process that has got the same pid. Children run in process groups of their own: Ctrl-C
// reaches only the demo, which stops them in its own order.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, open, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import {
  endProcess,
  identityOf,
  isRunning,
  type ProcessIdentity,
  readPidFile,
  writePidFile,
} from "./process-identity.ts";

export type ProcessOptions = {
  /** Name in reports, and of the files NAME.pid and NAME.log in stateDir. */
  readonly name: string;
  /** Arguments for process.execPath (Node). */
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly stateDir: string;
  /** Receives one message per event: what ended, with which code or signal, what happens next. */
  readonly report: (sentence: string) => void;
  readonly restartDelayMs?: number;
  /** Milliseconds between SIGTERM and SIGKILL. */
  readonly stopTimeoutMs?: number;
};

/** Exit code of the simulated target after a request that aborts a real one. */
const EXIT_ABORT = 70;
/** Exit code for bad configuration (sysexits.h): a restart would fail again. */
const EXIT_CONFIG = 78;
const RESTART_DELAY_MS = 1_000;
/**
 * A process that exits within EARLY_MS of its start MAX_EARLY_ENDS times in a row is not restarted.
 */
const EARLY_MS = 3_000;
const MAX_EARLY_ENDS = 3;
const STOP_TIMEOUT_MS = 10_000;
const KILL_TIMEOUT_MS = 5_000;
const MAX_LOG_BYTES = 16 * 1024 * 1024;
const LOG_TAIL_LINES = 12;

/**
 * Ends the process that a killed demo left running, starts it anew, and restarts it whenever it
 * ends. Resolves after the first start, which does not mean that the process is ready. Throws if
 * that start fails.
 */
export async function superviseProcess(options: ProcessOptions): Promise<SupervisedProcess> {
  await mkdir(options.stateDir, { recursive: true });
  await endLeftOverProcess(options);
  const first = await start(options);
  return new SupervisedProcess(options, first);
}

/** Ends the process that NAME.pid in stateDir identifies. True if it was running. */
export async function endLeftOverProcess(
  options: Pick<ProcessOptions, "name" | "stateDir" | "stopTimeoutMs">,
): Promise<boolean> {
  const path = pidFile(options);
  const leftOver = await readPidFile(path);
  if (leftOver === undefined) return false;
  const wasRunning = isRunning(leftOver);
  if (wasRunning) await endProcess(leftOver, stopSteps(options));
  await rm(path, { force: true });
  return wasRunning;
}

type Exit = readonly [code: number | null, signal: NodeJS.Signals | null];

type Started = {
  readonly time: number;
  /** Offset in bytes of its output in the log. */
  readonly logStart: number;
  readonly identity: ProcessIdentity | undefined;
  readonly exit: Promise<Exit>;
};

export class SupervisedProcess {
  readonly #options: ProcessOptions;
  readonly #stop = new AbortController();
  readonly #failure = Promise.withResolvers<Error>();
  readonly #watch: Promise<void>;
  #current: Started;
  #starts = 1;
  #earlyEnds = 0;

  constructor(options: ProcessOptions, first: Started) {
    this.#options = options;
    this.#current = first;
    this.#watch = this.#supervise();
  }

  /** Pid of the running process; undefined between its end and the next start. */
  get pid(): number | undefined {
    return this.#current.identity?.pid;
  }

  /** Number of starts, the first one included. */
  get starts(): number {
    return this.#starts;
  }

  /** Resolves when the supervisor gives up: bad configuration, or too many early exits in a row. */
  get failure(): Promise<Error> {
    return this.#failure.promise;
  }

  /** Stops the process with SIGTERM, then SIGKILL, and resolves when it has ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#watch;
  }

  async #supervise(): Promise<void> {
    const { signal } = this.#stop;
    const stopped = once(signal, "abort").then(() => undefined);
    while (!signal.aborted) {
      const ended = await Promise.race([this.#current.exit, stopped]);
      if (ended === undefined) break;
      this.#current = { ...this.#current, identity: undefined };
      if (this.#isHopeless(ended)) {
        await this.#giveUp(ended);
        break;
      }
      await this.#reportDeath(ended);
      await this.#startAgain();
    }
    const { identity } = this.#current;
    if (identity !== undefined) await endProcess(identity, stopSteps(this.#options));
    await rm(pidFile(this.#options), { force: true });
  }

  /** Whether a restart would fail again. Counts early exits; a kill by a signal is not one. */
  #isHopeless([code]: Exit): boolean {
    const early = code !== null && performance.now() - this.#current.time < EARLY_MS;
    this.#earlyEnds = early ? this.#earlyEnds + 1 : 0;
    return code === EXIT_CONFIG || this.#earlyEnds >= MAX_EARLY_ENDS;
  }

  async #startAgain(): Promise<void> {
    const { signal } = this.#stop;
    const delay = this.#options.restartDelayMs ?? RESTART_DELAY_MS;
    for (;;) {
      await sleep(delay, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return;
      try {
        this.#current = await start(this.#options);
        this.#starts += 1;
        this.#options.report(`${this.#options.name} restarted as process ${this.pid ?? "?"}`);
        return;
      } catch (error) {
        const why = error instanceof Error ? error.message : String(error);
        this.#options.report(`${this.#options.name} could not be started: ${why}`);
      }
    }
  }

  async #giveUp(ended: Exit): Promise<void> {
    const logTail = await this.#logTail();
    this.#failure.resolve(
      new Error(`${this.#options.name} ${describe(ended)} and is not restarted\n${logTail}`),
    );
  }

  async #reportDeath(ended: Exit): Promise<void> {
    const { name, report } = this.#options;
    const next = `restarting it; its log: ${logFile(this.#options)}`;
    if (ended[0] !== EXIT_ABORT) {
      report(`${name} ${describe(ended)}; ${next}`);
      return;
    }
    const logTail = await this.#logTail();
    const cause = "it received a request that no agent may send";
    report(`${name.toUpperCase()} ABORTED: ${cause}; ${next}\n${logTail}`);
  }

  /** The last lines that the process wrote to its log. */
  async #logTail(): Promise<string> {
    const log = await readFile(logFile(this.#options)).catch(() => Buffer.alloc(0));
    const text = log.subarray(this.#current.logStart).toString("utf8");
    return text.trimEnd().split("\n").slice(-LOG_TAIL_LINES).join("\n");
  }
}

async function start(options: ProcessOptions): Promise<Started> {
  const path = logFile(options);
  const size = (await stat(path).catch(() => undefined))?.size ?? 0;
  if (size > MAX_LOG_BYTES) await rename(path, `${path}.1`);
  // A file, not a pipe: the process may outlive the demo, and a write to a broken pipe would end
  // it.
  const log = await open(path, "a");
  try {
    const child = spawn(process.execPath, [...options.args], {
      env: { ...options.env },
      detached: true,
      stdio: ["ignore", log.fd, log.fd],
    });
    const exit = Promise.withResolvers<Exit>();
    child.once("exit", (code, signal) => exit.resolve([code, signal]));
    const identity = recordPid(child, pidFile(options));
    await once(child, "spawn");
    const logStart = size > MAX_LOG_BYTES ? 0 : size;
    return { logStart, time: performance.now(), identity, exit: exit.promise };
  } finally {
    await log.close();
  }
}

/** Writes the pid file right after the spawn: a later demo cannot find a process without one. */
function recordPid(child: ChildProcess, path: string): ProcessIdentity | undefined {
  const identity = child.pid === undefined ? undefined : identityOf(child.pid);
  try {
    if (identity !== undefined) writePidFile(path, identity);
    return identity;
  } catch (error) {
    child.kill("SIGKILL");
    throw error;
  }
}

function stopSteps({ stopTimeoutMs }: Pick<ProcessOptions, "stopTimeoutMs">) {
  return [
    { signal: "SIGTERM", timeoutMs: stopTimeoutMs ?? STOP_TIMEOUT_MS },
    { signal: "SIGKILL", timeoutMs: KILL_TIMEOUT_MS },
  ] as const;
}

function describe([code, signal]: Exit): string {
  return signal === null ? `ended with code ${code}` : `was killed by ${signal}`;
}

function pidFile({ stateDir, name }: Pick<ProcessOptions, "stateDir" | "name">): string {
  return join(stateDir, `${name}.pid`);
}

function logFile({ stateDir, name }: Pick<ProcessOptions, "stateDir" | "name">): string {
  return join(stateDir, `${name}.log`);
}
