// `storage-node demo`, which `npm start` runs: database, simulated target and agent on this
// machine, in the foreground.
import { parseArguments } from "./arguments.ts";
import { fileURLToPath } from "node:url";
import { ConfigError, EXIT_CONFIG } from "../config.ts";
import { runDemo } from "../demo/demo.ts";
import { watchForeground } from "../demo/foreground.ts";
import { PostgresUnsupported } from "../demo/postgres-runtime.ts";
import { EXIT_FAILED, EXIT_USAGE, type Io } from "./io.ts";

const USAGE = `usage: storage-node demo [--state DIR] [--machine FILE]

  --state DIR     keep all state in DIR instead of in the user's cache folder
  --machine FILE  simulate the machine that FILE describes (docs/simulator.md#a-machine): its drives, what is on
                  them, and what it lacks; nothing is admitted by itself, and each start is a boot
  --help

  STORAGE_NODE_LISTEN=HOST:PORT (127.0.0.1:50051) and the other settings of "serve" are passed on.`;

const MAIN = fileURLToPath(new URL("../main.ts", import.meta.url));
const AGENT = fileURLToPath(new URL("./demo-agent.ts", import.meta.url));

/**
 * Runs until the signal aborts, or until its terminal, output or launcher is gone (foreground.ts).
 */
export async function demo(args: readonly string[], io: Io): Promise<number> {
  let stateDir: string | undefined;
  let machineFile: string | undefined;
  try {
    const options = {
      state: { type: "string" },
      machine: { type: "string" },
      help: { type: "boolean" },
    } as const;
    const { values } = parseArguments({ args: [...args], options });
    if (values.help === true) {
      io.stdout(USAGE);
      return 0;
    }
    stateDir = values.state;
    machineFile = values.machine;
  } catch (error) {
    io.stderr(`${reasonOf(error)}\n\n${USAGE}`);
    return EXIT_USAGE;
  }
  using foreground = watchForeground();
  const signal = AbortSignal.any([io.signal, foreground.signal]);
  try {
    await runDemo({
      ...io,
      stateDir,
      machineFile,
      signal,
      agentArgs: [AGENT],
      targetArgs: [MAIN, "sim"],
    });
    return 0;
  } catch (error) {
    if (signal.aborted) return 0;
    io.stderr(`storage-node demo: ${reasonOf(error)}`);
    return error instanceof ConfigError ? EXIT_CONFIG : EXIT_FAILED;
  }
}

/**
 * The message of an error with its causes; of an AggregateError, the messages of all its errors.
 */
function reasonOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(reasonOf).join("; ");
  if (!(error instanceof Error)) return String(error);
  const { message, cause } = error;
  // Its message is complete and ends with the cure: do not append the cause.
  if (error instanceof PostgresUnsupported) return message;
  if (cause === undefined || message.includes(reasonOf(cause))) return message;
  return `${message}: ${reasonOf(cause)}`;
}
