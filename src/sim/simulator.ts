// Runs a simulated SPDK target: serves its socket until the signal aborts, or until a request
// arrives that would crash a real target.
import { replayConfig } from "./target/config-file.ts";
import { ControlServer } from "./target/control.ts";
import { Engine, type EngineOptions } from "./target/engine.ts";
import type { Disk } from "./target/media.ts";
import { disconnectGone } from "./target/nvme-methods.ts";
import { TargetAbort } from "./target/operation.ts";
import { driveAt, GroupUse, isMarked, markImage } from "./target/pcie-root.ts";
import { RunningKernel } from "./target/running-kernel.ts";
import type { Release } from "./target/release.ts";
import { TargetServer } from "./target/server.ts";
import { Target } from "./target/target.ts";

/** Exit code of a target that aborted. */
const EXIT_ABORTED = 70;
/** How often it is looked whether an attached function is there still. */
const GONE_MS = 100;
/** Exit code of a target that could not replay its saved configuration. */
const EXIT_BAD_CONFIG = 1;

export type SimulatorOptions = {
  readonly socketPath: string;
  /** Path of the control socket (tests); undefined: no control socket. */
  readonly controlPath: string | undefined;
  /**
   * Root folder of a simulated kernel, or "/" for the running one; undefined: every PCIe function
   * attaches.
   */
  readonly root: string | undefined;
  /** With the running kernel: which drive is behind a function now; undefined: none was replaced. */
  readonly slots?: string | undefined;
  readonly pollMs: number;
  readonly maxSubsystems: number;
  readonly release: Release;
  readonly strict: boolean;
  /** A saved configuration to replay at the start; undefined: none. */
  readonly configPath?: string | undefined;
  readonly disks: readonly Disk[];
  readonly signal: AbortSignal;
  readonly onListening: () => void;
  readonly onAbort: (reason: string) => void;
};

/** Resolves with the exit code: 0 once the signal aborts, 70 when the target aborted. */
export async function runSimulator(options: SimulatorOptions): Promise<number> {
  const { socketPath, controlPath, root, release, disks, signal } = options;
  const { eventTypes } = release;
  const target = new Target({ disks, maxSubsystems: options.maxSubsystems, eventTypes });
  const { hasDriver, ...functions } = pciFunctions(root, options.slots);
  const engine = new Engine({ target, release, strict: options.strict, ...functions });
  const ended = Promise.withResolvers<number>();
  const onFatal = (error: unknown) => {
    options.onAbort(error instanceof TargetAbort ? error.message : stackOf(error));
    ended.resolve(EXIT_ABORTED);
  };
  await using server = new TargetServer({ socketPath, pollMs: options.pollMs, engine, onFatal });
  await using stack = new AsyncDisposableStack();
  if (hasDriver !== undefined) {
    const timer = setInterval(() => disconnectGone({ target, ...functions }, hasDriver), GONE_MS);
    stack.defer(() => clearInterval(timer));
  }
  if (controlPath !== undefined) {
    const resume = () => server.resume();
    const control = new ControlServer({ path: controlPath, engine, resume, onFatal });
    await stack.use(control).listen();
  }
  if (options.configPath !== undefined) {
    try {
      await replayConfig(engine, options.configPath, options.pollMs);
    } catch (error) {
      if (error instanceof TargetAbort) onFatal(error);
      else options.onAbort(`${options.configPath}: ${messageOf(error)}`);
      return error instanceof TargetAbort ? EXIT_ABORTED : EXIT_BAD_CONFIG;
    }
  }
  await server.listen();
  options.onListening();
  const onStop = () => ended.resolve(0);
  if (signal.aborted) onStop();
  signal.addEventListener("abort", onStop, { once: true });
  return await ended.promise;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Nobody but this target writes to the disks. */
const UNMARKED = { markDisk: () => {}, isMarked: () => true };

type PciFunctions = Pick<EngineOptions, "driveAt" | "groupUse" | "markDisk" | "isMarked"> & {
  /** Whether an attached function has its driver still; undefined: drives do not disappear. */
  readonly hasDriver?: (address: string) => boolean;
};

function pciFunctions(root: string | undefined, slots: string | undefined): PciFunctions {
  if (root === undefined) {
    return { driveAt: () => "by address", groupUse: () => {}, ...UNMARKED };
  }
  if (root === "/") {
    const kernel = new RunningKernel(slots);
    return {
      driveAt: (address) => kernel.driveAt(address),
      groupUse: (address, used) => kernel.groupUse(address, used),
      ...UNMARKED,
      hasDriver: (address) => kernel.hasDriver(address),
    };
  }
  const groups = new GroupUse(root);
  return {
    driveAt: (address) => driveAt(root, address),
    groupUse: (address, used) => groups.set(address, used),
    markDisk: (disk, marked) => markImage(root, disk, marked),
    isMarked: (disk) => isMarked(root, disk),
  };
}

function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
