// The option --wait of commands: how long the agent waits until what was asked for is done.
import type { Duration } from "../gen/google/protobuf/duration.ts";
import { MAX_WAIT_MS } from "../limits.ts";
import { UsageFault } from "./agent-command.ts";

const MAX_SECONDS = MAX_WAIT_MS / 1_000;

/** Undefined: it does not wait. Throws UsageFault. */
export function waitOption(text: unknown): Duration | undefined {
  if (typeof text !== "string") return undefined;
  const seconds = /^\d{1,6}$/.test(text) ? Number(text) : Infinity;
  if (seconds > MAX_SECONDS) {
    throw new UsageFault(`--wait must be a number of seconds, at most ${MAX_SECONDS}`);
  }
  return { seconds: BigInt(seconds), nanos: 0 };
}
