// The process edge: arguments, environment, signals and exit codes. Nothing else touches `process`.
import { once } from "node:events";
import { createInterface } from "node:readline/promises";
import { run } from "./cli/cli.ts";

/**
 * Signals within this time count as one: Ctrl-C reaches the whole process group, and the launcher
 * forwards it as well.
 */
const ONE_SIGNAL_MS = 500;

const stop = new AbortController();
let firstMs: number | undefined;
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    firstMs ??= performance.now();
    // A second signal ends the process at once.
    if (performance.now() - firstMs > ONE_SIGNAL_MS) process.exit(130);
    stop.abort(signal);
  });
}

process.exitCode = await run(process.argv.slice(2), {
  env: process.env,
  signal: stop.signal,
  stdout: (text) => process.stdout.write(`${text}\n`),
  stderr: (text) => process.stderr.write(`${text}\n`),
  columns: () => (process.stdout.isTTY ? process.stdout.columns : undefined),
  ask: process.stdin.isTTY ? ask : undefined,
});

/** The line that was typed; empty if the input ended or a signal came. */
async function ask(question: string): Promise<string> {
  using lines = createInterface({ input: process.stdin, output: process.stdout });
  lines.once("SIGINT", () => stop.abort("SIGINT"));
  const answered = lines.question(question, { signal: stop.signal }).catch(() => "");
  return await Promise.race([answered, once(lines, "close").then(() => "")]);
}
