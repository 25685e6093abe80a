// Identifies a process by pid, start time and boot id, because the kernel reuses pids: a pid from a
// file alone may name another process. It never signals a process without checking its identity
// just before. Linux only: it reads /proc.
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";

export type ProcessIdentity = {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat: clock ticks from boot to the start of the process. */
  readonly startTicks: string;
  readonly bootId: string;
};

const POLL_MS = 20;

const identityJson = z.object({
  pid: z.number().int().min(1),
  startTicks: z.string(),
  bootId: z.string(),
});

/** The process that has this pid now; undefined if there is none or it is a zombie. */
export function identityOf(pid: number): ProcessIdentity | undefined {
  const stat = statOf(pid);
  if (stat === undefined || stat.state === "Z" || stat.state === "X") return undefined;
  return { pid, startTicks: stat.startTicks, bootId: bootId() };
}

export function isRunning(identity: ProcessIdentity): boolean {
  const now = identityOf(identity.pid);
  return now?.startTicks === identity.startTicks && now.bootId === identity.bootId;
}

/**
 * The present parent: the process that started this one, or its reaper; undefined if there is none.
 */
export function parentOf(identity: ProcessIdentity): ProcessIdentity | undefined {
  const parent = statOf(identity.pid)?.parent;
  return parent === undefined || parent === 0 ? undefined : identityOf(parent);
}

/** Those of `pids` that are direct children of the process. */
export function childrenOf(identity: ProcessIdentity, pids: readonly number[]): ProcessIdentity[] {
  return pids.flatMap((pid) => {
    if (statOf(pid)?.parent !== identity.pid) return [];
    const child = identityOf(pid);
    return child === undefined ? [] : [child];
  });
}

/**
 * Signals the process if it still runs; false if it has ended. Throws EPERM if that is not
 * permitted.
 */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): boolean {
  if (!isRunning(identity)) return false;
  try {
    process.kill(identity.pid, signal);
    return true;
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ESRCH") return false;
    throw error;
  }
}

/** Waits until the process has ended; false if it still runs after timeoutMs. */
async function waitUntilGone(
  identity: ProcessIdentity,
  options: { readonly timeoutMs: number; readonly signal?: AbortSignal },
): Promise<boolean> {
  const deadline = performance.now() + options.timeoutMs;
  while (isRunning(identity)) {
    if (performance.now() >= deadline) return false;
    await sleep(POLL_MS, undefined, options.signal === undefined ? {} : { signal: options.signal });
  }
  return true;
}

/**
 * Sends each signal in turn and waits its timeoutMs for the end. Throws if the process survives
 * all.
 */
export async function endProcess(
  identity: ProcessIdentity,
  steps: readonly { readonly signal: NodeJS.Signals; readonly timeoutMs: number }[],
): Promise<void> {
  for (const { signal, timeoutMs } of steps) {
    if (!signalProcess(identity, signal)) return;
    if (await waitUntilGone(identity, { timeoutMs })) return;
  }
  throw new Error(
    `process ${identity.pid} did not end after ${steps.map(({ signal }) => signal).join(", ")}`,
  );
}

/** The identity kept in a file; undefined if there is no such file or no identity in it. */
export async function readPidFile(path: string): Promise<ProcessIdentity | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw error;
  }
  try {
    return identityJson.parse(JSON.parse(text));
  } catch {
    // Of another format, or truncated by a power failure: it identifies no process.
    return undefined;
  }
}

/** Writes a temporary file and renames it, so that a reader never sees a partial file. */
export function writePidFile(path: string, identity: ProcessIdentity): void {
  const unfinished = `${path}.${process.pid}.new`;
  writeFileSync(unfinished, JSON.stringify(identity));
  renameSync(unfinished, path);
}

type Stat = { readonly state: string; readonly parent: number; readonly startTicks: string };

function statOf(pid: number): Stat | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    // ENOENT or ESRCH: the process ended before or during the read.
    return undefined;
  }
  // The command name in parentheses may contain blanks and parentheses: split after the last one.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const [state, parent] = fields;
  const startTicks = fields[19];
  if (state === undefined || parent === undefined || startTicks === undefined) return undefined;
  return { state, parent: Number(parent), startTicks };
}

function bootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
}
