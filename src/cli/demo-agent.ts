// The agent process of the demo: `serve` with the simulated kernel. A separate program, so that no
// option of the real `serve` can select the simulated kernel.
import { serve } from "./serve.ts";
import { openSimulatedKernel } from "../sim/kernel/simulated-kernel.ts";

const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => stop.abort(signal));
}

process.exitCode = await serve(
  {
    env: process.env,
    signal: stop.signal,
    stdout: (text) => process.stdout.write(`${text}\n`),
    stderr: (text) => process.stderr.write(`${text}\n`),
  },
  openSimulatedKernel,
);
