// The commands serve and migrate. serve never migrates, never starts a database, never simulates.
import { fileURLToPath } from "node:url";
import { Client } from "pg";
import type { Io } from "./cli.ts";
import { ListenError } from "../api/server.ts";
import { EXIT_CONFIG, readConfigOrFaults } from "../config.ts";
import { startNode, VERSION } from "../node.ts";
import { migrate } from "../store/migrate.ts";
import { openKernel, type Kernel } from "../sysfs/kernel.ts";
import { createLog } from "../telemetry/log.ts";
import { startTelemetry } from "../telemetry/telemetry.ts";

export const MIGRATIONS_DIR = fileURLToPath(new URL("../../migrations/", import.meta.url));

const EXIT_FAILED = 1;

/** Runs the agent until the signal; the kernel is the machine's unless the demo gives another. */
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
    log.info("stopping");
  } catch (error) {
    log.fatal({ err: error }, "agent cannot run");
    io.stderr(`storage-node: ${reasonOf(error)}`);
    return EXIT_FAILED;
  }
  return 0;
}

export type KernelOpener = (root: string) => Promise<Kernel>;

const realKernel: KernelOpener = (root) => Promise.resolve(openKernel(root));

/** Brings the schema up to date, once for the whole fleet. */
export async function migrateSchema(io: Io): Promise<number> {
  const url = io.env["DATABASE_URL"];
  if (url === undefined || url === "") {
    io.stderr("DATABASE_URL: is not set; for example postgresql://user@host/storage_node");
    return EXIT_CONFIG;
  }
  const client = new Client({ connectionString: url });
  try {
    await client.connect();
    const { applied } = await migrate(client, MIGRATIONS_DIR, { signal: io.signal });
    io.stdout(applied.length === 0 ? "schema is up to date" : `applied ${applied.join(", ")}`);
    return 0;
  } catch (error) {
    io.stderr(`storage-node migrate: ${reasonOf(error)}`);
    return EXIT_FAILED;
  } finally {
    await client.end().catch(() => {});
  }
}

function reasonOf(error: unknown): string {
  if (error instanceof ListenError || error instanceof Error) return error.message;
  return String(error);
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
