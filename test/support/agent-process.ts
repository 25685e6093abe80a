// An agent in a process of its own, for what can only be done to a process: it is stopped and goes on
// later as if no time had passed. Run by itself it is that process.
import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { pino } from "pino";
import { z } from "zod";
import { readConfig } from "../../src/config.ts";
import { startNode } from "../../src/node.ts";
import { MIGRATIONS_DIR } from "../../src/store/migrate.ts";
import { openKernel } from "../../src/sysfs/kernel.ts";

const order = z.object({
  env: z.record(z.string(), z.string()),
  leaseTermMs: z.number(),
  lockPath: z.string(),
});

const started = z.object({ address: z.string() });

export type AgentProcess = AsyncDisposable & {
  readonly address: string;
  readonly signal: (signal: "SIGSTOP" | "SIGCONT") => void;
};

export async function agentProcess(options: z.infer<typeof order>): Promise<AgentProcess> {
  const child = fork(fileURLToPath(import.meta.url), [JSON.stringify(options)]);
  const [message] = await once(child, "message");
  return {
    address: started.parse(message).address,
    signal: (signal) => {
      child.kill(signal);
    },
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await once(child, "exit");
    },
  };
}

async function main(text: string): Promise<void> {
  const { env, leaseTermMs, lockPath } = order.parse(JSON.parse(text));
  const config = readConfig(env);
  const { address } = await startNode({
    config,
    lockPath,
    kernel: openKernel(config.root),
    log: pino({ level: "silent" }),
    migrationsDir: MIGRATIONS_DIR,
    timing: { leaseTermMs, graceMs: 300 },
  });
  process.send?.({ address });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await main(process.argv[2] ?? "");
