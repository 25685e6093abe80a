// The composition root: constructs the adapters, the loops and the server, connects them, and
// disposes of them in reverse order. No other module constructs them.
import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import type { Logger } from "pino";
import type { Agent } from "./api/agent.ts";
import type { StorageNodeHandlers } from "./api/call.ts";
import { diskHandlers } from "./api/disks.ts";
import { explainHandlers } from "./api/explain.ts";
import { exportHandlers } from "./api/exports.ts";
import { lvolHandlers } from "./api/lvols.ts";
import { deletionHandlers } from "./api/deletion.ts";
import { snapshotHandlers } from "./api/snapshots.ts";
import { outcomeHandlers } from "./api/outcomes.ts";
import { nodeHandlers } from "./api/node.ts";
import { orphanHandlers } from "./api/orphans.ts";
import { startServer, type RunningServer } from "./api/server.ts";
import type { Config } from "./config.ts";
import {
  EVENTS_MS,
  GRACE_MS,
  LEASE_TERM_MS,
  NVMF_WAIT_MS,
  REPEAT_MS,
  stallMs,
  STOP_MS,
} from "./limits.ts";
import type { DiskRow, DiskReadiness } from "./model/disk.ts";
import { factsOf } from "./node-facts.ts";
import { components, conditions } from "./node-health.ts";
import { showNode } from "./node-telemetry.ts";
import { Reconciler } from "./reconcile/reconciler.ts";
import { callTelemetry } from "./spdk/call-telemetry.ts";
import { spdkClient } from "./spdk/client.ts";
import { SpdkConnection } from "./spdk/connection.ts";
import { SpdkError, SpdkNotSent, SpdkUnknownOutcome } from "./spdk/errors.ts";
import { CopyFile } from "./local/copy-file.ts";
import { LocalLock } from "./local/local-lock.ts";
import { LocalMemory } from "./local/local-memory.ts";
import { restores } from "./spdk/restoring.ts";
import { openDatabase } from "./store/database.ts";
import { Fence } from "./store/fence.ts";
import { LocalCopy } from "./store/local-copy.ts";
import { Rows } from "./store/rows.ts";
import { StoreSession } from "./store/session.ts";
import { notLeaseHolder } from "./store/waiting-intents.ts";
import { Writer } from "./store/writer.ts";
import type { Kernel } from "./sysfs/kernel.ts";
import { tracedKernel } from "./sysfs/traced-kernel.ts";
import { NO_INSTRUMENTS, type Instruments } from "./telemetry/instruments.ts";
import type { Telemetry } from "./telemetry/telemetry.ts";

export const VERSION = "0.1.0";

export type RunningNode = AsyncDisposable & {
  readonly address: string;
  /** HOST:PORT of metrics and probes; undefined: not served. */
  readonly httpAddress: string | undefined;
  readonly agent: Agent;
  /** Rejects if the agent must not continue: another fleet's database, a newer or edited schema. */
  readonly failed: Promise<never>;
};

export type NodeOptions = {
  readonly config: Config;
  readonly kernel: Kernel;
  readonly log: Logger;
  readonly migrationsDir: string;
  readonly timing?: Partial<Timing>;
  /** Path whose `.agent` file is the local lock; by default that of the SPDK socket. */
  readonly lockPath?: string | undefined;
  /** Undefined: nothing is traced or measured. */
  readonly telemetry?: Telemetry | undefined;
};

/** Times that tests shorten, in ms; see the constants of the same names in limits.ts. */
export type Timing = {
  readonly leaseTermMs: number;
  readonly graceMs: number;
  readonly eventsMs: number;
  readonly repeatMs: number;
  readonly nvmfWaitMs: number;
  readonly stopMs: number;
};

const TIMING: Timing = {
  leaseTermMs: LEASE_TERM_MS,
  graceMs: GRACE_MS,
  eventsMs: EVENTS_MS,
  repeatMs: REPEAT_MS,
  nvmfWaitMs: NVMF_WAIT_MS,
  stopMs: STOP_MS,
};

/** Starts the agent. The API answers at once; the agent is ready once every object is verified. */
export async function startNode(options: NodeOptions): Promise<RunningNode> {
  const { config, log, telemetry } = options;
  const instruments = telemetry ?? NO_INSTRUMENTS;
  const kernel = tracedKernel(options.kernel, instruments.tracer);
  await using stack = new AsyncDisposableStack();
  const timing = { ...TIMING, ...options.timing };
  const { leaseTermMs, stopMs } = timing;
  const rows = new Rows();
  const fence = new Fence();
  const database = stack.use(
    openDatabase({ url: config.databaseUrl, log, stallMs: stallMs(leaseTermMs), instruments }),
  );
  const file = stack.use(new CopyFile(config.stateDir));
  const copy = stack.use(new LocalCopy({ file, rows, node: config, log }));
  const shared = { database, rows, fence, copy, log };
  const writer = stack.use(new Writer({ ...shared, policy: config, instruments }));
  const lock = stack.use(new LocalLock(options.lockPath ?? config.spdkSocket));
  const memory = new LocalMemory(config.stateDir);
  const holder = `${hostname()}/${process.pid}/${randomUUID()}`;
  const session = stack.use(
    new StoreSession({
      ...options,
      ...shared,
      writer,
      lock,
      memory,
      holder,
      leaseTermMs,
    }),
  );
  const connection = stack.use(connectTarget(config.spdkSocket, fence, instruments));
  // Whether a target that is gone or back is restored or changed depends on the database.
  connection.onDisconnected(() => session.check());
  connection.onConnected(() => session.check());
  const spdk = spdkClient(connection);
  const reconciler = new Reconciler({
    config,
    rows,
    writer,
    kernel,
    connection,
    spdk,
    fence,
    ...timing,
    log,
    instruments,
  });
  stack.defer(() => reconciler.stop(AbortSignal.timeout(stopMs)));
  const agent = agentOf({ config, rows, writer, session, reconciler, spdk, fence, lock, copy });
  const { listen } = config;
  const handlers = handlersOf(agent, log);
  const server = stack.use(await startServer({ listen, log, instruments, handlers }));
  const observed = { agent, rows, reconciler, writer, connection, fence };
  const http = stack.use(await showNode(config.httpListen, telemetry, observed));
  stack.defer(watchReadiness(agent, reconciler, server, log));
  reconciler.start();
  session.start();
  log.info({ address: server.address, http: http.address }, "agent started");
  const owned = stack.move();
  return {
    address: server.address,
    httpAddress: http.address,
    agent,
    failed: session.failed,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function handlersOf(agent: Agent, log: Logger): Partial<StorageNodeHandlers> {
  return {
    ...lvolHandlers(agent),
    ...snapshotHandlers(agent),
    ...deletionHandlers(agent),
    ...exportHandlers(agent),
    ...diskHandlers(agent),
    ...nodeHandlers(agent),
    ...explainHandlers(agent),
    ...orphanHandlers(agent),
    ...outcomeHandlers(agent, log),
  };
}

function connectTarget(path: string, fence: Fence, instruments: Instruments): SpdkConnection {
  return new SpdkConnection({
    path,
    mayMutate: (method) =>
      fence.writeMode === "read-write" || (fence.writeMode === "restore-only" && restores(method)),
    onCall: callTelemetry(instruments, path),
  });
}

type Parts = {
  readonly config: Config;
  readonly rows: Rows;
  readonly writer: Writer;
  readonly session: StoreSession;
  readonly reconciler: Reconciler;
  readonly spdk: ReturnType<typeof spdkClient>;
  readonly fence: Fence;
  readonly lock: LocalLock;
  readonly copy: LocalCopy;
};

function agentOf(parts: Parts): Agent {
  const { config, rows, writer, session, reconciler, spdk, fence } = parts;
  const diskReadiness = (row: DiskRow): DiskReadiness => reconciler.diskReadiness(row);
  return {
    nodeId: config.nodeId,
    version: VERSION,
    maxExports: config.maxExports,
    overcommit: config.overcommit,
    rows,
    writer,
    view: (row) => reconciler.volumeView(row),
    snapshotView: (row) => reconciler.snapshotView(row),
    diskReadiness,
    discardGuard: () => reconciler.discardGuard,
    orphans: orphansOf(parts),
    ...factsOf(parts),
    connectedHosts: async (nqn) => {
      try {
        const controllers = await spdk.nvmfSubsystemGetControllers(nqn);
        return [...new Set(controllers.map(({ hostNqn }) => hostNqn))];
      } catch (error) {
        // SpdkError: the subsystem does not exist, so no host is connected. The others: the target
        // gave no answer; the step that removes the export asks again.
        if (error instanceof SpdkError || error instanceof SpdkNotSent) return [];
        if (error instanceof SpdkUnknownOutcome) return [];
        throw error;
      }
    },
    readExportAgain: (id) => reconciler.readExportAgain(id),
    resolveOutcome: (id) => reconciler.resolveOutcome(id),
    targetVersion: () => reconciler.target.version,
    ready: () =>
      session.status.ok &&
      fence.writeMode === "read-write" &&
      reconciler.target.connected &&
      reconciler.verified,
    hold: () => fence.hold,
    components: () => components(parts),
    conditions: () => conditions(parts),
    loops: () => reconciler.loops(),
  };
}

function orphansOf({ reconciler, writer, fence }: Parts): Agent["orphans"] {
  return {
    ...reconciler.orphans,
    purge: async (purge, signal) => {
      writer.refuseIfUnavailable();
      if (fence.writeMode !== "read-write") throw notLeaseHolder();
      return await reconciler.orphans.purge(purge, signal);
    },
  };
}

/** Reports each change of readiness to the health service and to the log. */
function watchReadiness(
  agent: Agent,
  reconciler: Reconciler,
  server: RunningServer,
  log: Logger,
): () => void {
  let ready = false;
  const update = () => {
    if (agent.ready() === ready) return;
    ready = !ready;
    server.setReady(ready);
    const reasons = agent.components().filter(({ ok }) => !ok);
    log.info({ ready, reasons }, ready ? "agent is ready" : "agent is not ready");
  };
  const stop = reconciler.onChange(update);
  const stopRows = agent.rows.subscribe(update);
  const timer = setInterval(update, 500);
  timer.unref();
  return () => {
    stop();
    stopRows();
    clearInterval(timer);
  };
}
