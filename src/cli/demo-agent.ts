// The agent of the demo: `serve` over the simulated kernel instead of the machine's. A file of its
// own, so that the real `serve` cannot even be asked to simulate.
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
