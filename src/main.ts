// The process edge: arguments, environment, signals and exit codes. Nothing else touches `process`.
import { run } from "./cli.ts";

const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => {
    // A second signal means: now.
    if (stop.signal.aborted) process.exit(130);
    stop.abort(signal);
  });
}

process.exitCode = await run(process.argv.slice(2), {
  env: process.env,
  signal: stop.signal,
  stdout: (text) => process.stdout.write(`${text}\n`),
  stderr: (text) => process.stderr.write(`${text}\n`),
});
