// Child processes of the demo, each started again when it dies. A killed demo leaves its children
// running; the next one finds each by its pid file and ends exactly that process, never another one
// that got the same pid since. Ctrl-C in a terminal reaches the demo only, which stops its children
// in the order it wants.
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
  /** Names the process to people, and its files NAME.pid and NAME.log in stateDir. */
  readonly name: string;
  /** Arguments to the Node that runs this program. */
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly stateDir: string;
  /** Takes one sentence for people: what died, with which code, what happens next. */
  readonly report: (sentence: string) => void;
  readonly restartDelayMs?: number;
  /** How long the process may take to stop after SIGTERM before it is killed. */
  readonly stopTimeoutMs?: number;
};

/** Exit code of a simulated target that aborted, as the real one does on overlapping changes. */
const EXIT_ABORT = 70;
/** Exit code for bad configuration: it would be the same at the next start (sysexits.h). */
const EXIT_CONFIG = 78;
const RESTART_DELAY_MS = 1_000;
/** Ending by itself this soon after its start, this often in a row: it cannot run here. */
const EARLY_MS = 3_000;
const MAX_EARLY_ENDS = 3;
const STOP_TIMEOUT_MS = 10_000;
const KILL_TIMEOUT_MS = 5_000;
const MAX_LOG_BYTES = 16 * 1024 * 1024;
const LAST_WORDS_LINES = 12;

/**
 * Ends what a killed run left of this process, starts it, and starts it again whenever it dies.
 * Resolves when it was started once, which does not mean that it is ready. Throws if it cannot be
 * started at all.
 */
export async function superviseProcess(options: ProcessOptions): Promise<SupervisedProcess> {
  await mkdir(options.stateDir, { recursive: true });
  await endLeftOverProcess(options);
  const first = await start(options);
  return new SupervisedProcess(options, first);
}

/** Ends the process that NAME.pid in stateDir names, if it still is that process. True: it was. */
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
  /** Where its words begin in the log. */
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

  /** The process that runs now; undefined between a death and the next start. */
  get pid(): number | undefined {
    return this.#current.identity?.pid;
  }

  /** How often it was started, the first time included. */
  get starts(): number {
    return this.#starts;
  }

  /** Resolves, once, if starting it again would be in vain; then it is not tried any more. */
  get failure(): Promise<Error> {
    return this.#failure.promise;
  }

  /** Stops it with SIGTERM, then SIGKILL, and resolves when it is gone. */
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
      if (this.#isInVain(ended)) {
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

  #isInVain([code]: Exit): boolean {
    const early = code !== null && performance.now() - this.#current.time < EARLY_MS;
    this.#earlyEnds = early ? this.#earlyEnds + 1 : 0;
    return code === EXIT_CONFIG || this.#earlyEnds >= MAX_EARLY_ENDS;
  }

  async #startAgain(): Promise<void> {
    const { signal } = this.#stop;
    const delay = this.#options.restartDelayMs ?? RESTART_DELAY_MS;
    for (;;) {
      // An abort ends the wait, and with it the attempts.
      await sleep(delay, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return;
      try {
        this.#current = await start(this.#options);
        this.#starts += 1;
        this.#options.report(`${this.#options.name} runs again as process ${this.pid ?? "?"}`);
        return;
      } catch (error) {
        const why = error instanceof Error ? error.message : String(error);
        this.#options.report(`${this.#options.name} could not be started: ${why}`);
      }
    }
  }

  async #giveUp(ended: Exit): Promise<void> {
    const words = await this.#lastWords();
    this.#failure.resolve(
      new Error(`${this.#options.name} ${describe(ended)} and is not tried again\n${words}`),
    );
  }

  async #reportDeath(ended: Exit): Promise<void> {
    const { name, report } = this.#options;
    const next = `it is started again; its log: ${logFile(this.#options)}`;
    if (ended[0] !== EXIT_ABORT) {
      report(`${name} ${describe(ended)}; ${next}`);
      return;
    }
    const words = await this.#lastWords();
    report(`${name.toUpperCase()} ABORTED: it was sent what no agent may send; ${next}\n${words}`);
  }

  async #lastWords(): Promise<string> {
    const log = await readFile(logFile(this.#options)).catch(() => Buffer.alloc(0));
    const text = log.subarray(this.#current.logStart).toString("utf8");
    return text.trimEnd().split("\n").slice(-LAST_WORDS_LINES).join("\n");
  }
}

async function start(options: ProcessOptions): Promise<Started> {
  const path = logFile(options);
  const size = (await stat(path).catch(() => undefined))?.size ?? 0;
  if (size > MAX_LOG_BYTES) await rename(path, `${path}.1`);
  // A file and not a pipe: the process may outlive the demo and must not fail for its output.
  const log = await open(path, "a");
  try {
    const child = spawn(process.execPath, [...options.args], {
      env: { ...options.env },
      detached: true,
      stdio: ["ignore", log.fd, log.fd],
    });
    const exit = Promise.withResolvers<Exit>();
    child.once("exit", (code, signal) => exit.resolve([code, signal]));
    const identity = note(child, pidFile(options));
    await once(child, "spawn");
    const logStart = size > MAX_LOG_BYTES ? 0 : size;
    return { logStart, time: performance.now(), identity, exit: exit.promise };
  } finally {
    await log.close();
  }
}

/** Before anything else can happen: a process that no file names is one that nobody ends. */
function note(child: ChildProcess, path: string): ProcessIdentity | undefined {
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
