// `storage-node serve`: runs the agent. It never migrates, never starts a database, never
// simulates.
import { EXIT_FAILED, messageOf, type Io } from "./io.ts";
import { EXIT_CONFIG, readConfigOrFaults } from "../config.ts";
import { startNode, VERSION } from "../node.ts";
import { MIGRATIONS_DIR } from "../store/migrate.ts";
import { openKernel, type Kernel } from "../sysfs/kernel.ts";
import { createLog } from "../telemetry/log.ts";
import { startTelemetry } from "../telemetry/telemetry.ts";

/**
 * Runs the agent until the signal aborts; resolves with the exit code. openNodeKernel: the demo
 * passes a simulated kernel, the default is the kernel of this machine.
 */
export async function serve(io: Io, openNodeKernel: KernelOpener = realKernel): Promise<number> {
  const config = readConfigOrFaults(io);
  if (config === undefined) return EXIT_CONFIG;
  const log = createLog({ level: config.logLevel, nodeId: config.nodeId });
  try {
    await using telemetry = startTelemetry(config.telemetry, { ...config, version: VERSION });
    const kernel = await openNodeKernel(config.root);
    const migrationsDir = MIGRATIONS_DIR;
    await using node = await startNode({ config, kernel, log, migrationsDir, telemetry });
    await Promise.race([aborted(io.signal), node.failed]);
    log.info("agent stopping");
  } catch (error) {
    log.fatal({ err: error }, "agent stopped by an error");
    io.stderr(`storage-node: ${messageOf(error)}`);
    return EXIT_FAILED;
  }
  return 0;
}

export type KernelOpener = (root: string) => Promise<Kernel>;

const realKernel: KernelOpener = (root) => Promise.resolve(openKernel(root));

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
