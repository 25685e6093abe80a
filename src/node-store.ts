// Opens what the agent keeps: database, rows in memory, their local copy, events, writer, lock and lease.
import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import type { Logger } from "pino";
import type { Config } from "./config.ts";
import { stallMs } from "./limits.ts";
import { CopyFile } from "./local/copy-file.ts";
import { LocalLock } from "./local/local-lock.ts";
import { LocalMemory } from "./local/local-memory.ts";
import { openDatabase } from "./store/database.ts";
import { EventLog } from "./store/event-log.ts";
import { Fence } from "./store/fence.ts";
import { LocalCopy } from "./store/local-copy.ts";
import { Rows } from "./store/rows.ts";
import { StateDir } from "./store/state-dir.ts";
import { StoreSession } from "./store/session.ts";
import { Writer } from "./store/writer.ts";
import type { Instruments } from "./telemetry/instruments.ts";

export type StoreOptions = {
  readonly config: Config;
  readonly log: Logger;
  readonly migrationsDir: string;
  readonly lockPath?: string | undefined;
  readonly leaseTermMs: number;
  readonly instruments: Instruments;
};

/** What it opens is closed with the stack. */
export function openStore(stack: AsyncDisposableStack, options: StoreOptions) {
  const { config, log, leaseTermMs, instruments } = options;
  const rows = new Rows();
  const fence = new Fence();
  const database = stack.use(
    openDatabase({ url: config.databaseUrl, log, stallMs: stallMs(leaseTermMs), instruments }),
  );
  const file = stack.use(new CopyFile(config.stateDir));
  const copy = stack.use(new LocalCopy({ file, rows, node: config, log }));
  const shared = { database, rows, fence, copy, log, instruments };
  const { nodeId, eventRetentionMs: retentionMs } = config;
  const events = stack.use(new EventLog({ ...shared, nodeId, retentionMs }));
  const writer = stack.use(new Writer({ ...shared, policy: config, events }));
  const lock = stack.use(new LocalLock(options.lockPath ?? config.spdkSocket));
  const stateDir = new StateDir(new LocalMemory(config.stateDir), config.stateDir);
  const holder = `${hostname()}/${process.pid}/${randomUUID()}`;
  const session = stack.use(
    new StoreSession({ ...options, ...shared, writer, lock, memory: stateDir, holder }),
  );
  return { rows, fence, copy, events, writer, lock, session, stateDir };
}
