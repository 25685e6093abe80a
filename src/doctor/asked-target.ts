// Whether a target answers at a socket, of which release, and where its reactors run.
import { stat } from "node:fs/promises";
import type { SetupCheck } from "../explain/setup.ts";
import { UnsupportedRelease } from "../spdk/capabilities.ts";
import { spdkClient } from "../spdk/client.ts";
import { SpdkConnection } from "../spdk/connection.ts";
import { SpdkError } from "../spdk/errors.ts";

export type AskedTarget = {
  readonly check: SetupCheck;
  readonly answers: boolean;
  readonly pid: number | undefined;
  /** Undefined: the target does not tell. */
  readonly cpus: readonly number[] | undefined;
};

const name = "target";

export async function askTarget(path: string, waitMs: number): Promise<AskedTarget> {
  const away = (found: string, cure: string): AskedTarget => ({
    check: { name, verdict: "MISSING", found, cure },
    answers: false,
    pid: undefined,
    cpus: undefined,
  });
  const start = "start the target, or correct STORAGE_NODE_SPDK_SOCKET";
  const isThere = await stat(path).then(
    (found) => found.isSocket(),
    () => false,
  );
  if (!isThere) return away(`there is no socket ${path}`, start);
  await using connection = new SpdkConnection({ path, mayMutate: () => false });
  if (!(await connected(connection, waitMs))) {
    return away(`nothing answers at ${path}: ${connection.fault ?? "no answer"}`, start);
  }
  const client = spdkClient(connection);
  try {
    const { version } = await client.spdkGetVersion({ waitMs });
    const { pid, cpus } = await reactorsOf(client, waitMs);
    try {
      await client.capabilities();
    } catch (error) {
      if (!(error instanceof UnsupportedRelease)) throw error;
      const check = {
        name,
        verdict: "MISSING",
        found: error.message,
        cure: "SPDK 24.01 or newer",
      } as const;
      return { check, answers: true, pid, cpus };
    }
    return {
      check: { name, verdict: "OK", found: `${version} at ${path}`, cure: "" },
      answers: true,
      pid,
      cpus,
    };
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    return away(
      `${path} takes requests and does not answer them (${why})`,
      "see the target's log, and restart it",
    );
  }
}

async function reactorsOf(client: ReturnType<typeof spdkClient>, waitMs: number) {
  try {
    const { pid, reactors } = await client.frameworkGetReactors({ waitMs });
    const cpus = reactors.flatMap(({ core }) => core ?? []);
    return { pid, cpus: cpus.length === 0 ? undefined : cpus };
  } catch (error) {
    if (!(error instanceof SpdkError)) throw error;
    return { pid: undefined, cpus: undefined };
  }
}

async function connected(connection: SpdkConnection, waitMs: number): Promise<boolean> {
  if (connection.connected) return true;
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const stop = connection.onConnected(() => resolve(true));
  const timer = setTimeout(() => resolve(false), waitMs);
  const answer = await promise;
  clearTimeout(timer);
  stop();
  return answer;
}
