// The composition root: constructs the adapters, the loops and the server, connects them, and
// disposes of them in reverse order. No other module constructs them.
import type { Logger } from "pino";
import { Access } from "./access/access.ts";
import type { Agent } from "./api/agent.ts";
import type { StorageNodeHandlers } from "./api/call.ts";
import { cordonHandlers } from "./api/cordon.ts";
import { controllerHandlers } from "./api/controllers.ts";
import { allDiskHandlers } from "./api/disk-handlers.ts";
import { iostatHandlers } from "./api/iostat.ts";
import { explainHandlers } from "./api/explain.ts";
import { eventHandlers } from "./api/events.ts";
import { exportHandlers } from "./api/exports.ts";
import { changeHandlers } from "./api/changes.ts";
import { lvolHandlers } from "./api/lvols.ts";
import { deletionHandlers } from "./api/deletion.ts";
import { snapshotHandlers } from "./api/snapshots.ts";
import { outcomeHandlers } from "./api/outcomes.ts";
import { nodeHandlers } from "./api/node.ts";
import { orphanHandlers } from "./api/orphans.ts";
import { startServer, type RunningServer } from "./api/server.ts";
import { watchFeed, watchHandlers } from "./api/watch.ts";
import type { Config } from "./config.ts";
import {
  ACCESS_LOOK_MS,
  EVENTS_MS,
  GRACE_MS,
  HEALTH_MS,
  HEALTH_WAIT_MS,
  LEASE_TERM_MS,
  NVMF_WAIT_MS,
  REPEAT_MS,
  STATE_LASTS_MS,
  STOP_MS,
} from "./limits.ts";
import type { DiskRow, DiskReadiness } from "./model/disk.ts";
import { factsOf } from "./node-facts.ts";
import { nodeEvents } from "./node-events.ts";
import { components, conditions, ready } from "./node-health.ts";
import { openStore } from "./node-store.ts";
import { showNode } from "./node-telemetry.ts";
import { refuseCloneOnOldTarget, refuseFatalGrowth } from "./old-target.ts";
import { pendingResize } from "./reconcile/lvol/resize.ts";
import { Reconciler } from "./reconcile/reconciler.ts";
import { callTelemetry } from "./spdk/call-telemetry.ts";
import { spdkClient } from "./spdk/client.ts";
import { SpdkConnection } from "./spdk/connection.ts";
import { SpdkError, SpdkNotSent, SpdkUnknownOutcome } from "./spdk/errors.ts";
import type { LocalLock } from "./local/local-lock.ts";
import { restores } from "./spdk/restoring.ts";
import { StoreChanges } from "./spdk/store-changes.ts";
import { isDatabaseDown } from "./store/database.ts";
import type { EventLog } from "./store/event-log.ts";
import type { Fence } from "./store/fence.ts";
import type { LocalCopy } from "./store/local-copy.ts";
import type { Rows } from "./store/rows.ts";
import type { StateDir } from "./store/state-dir.ts";
import type { StoreSession } from "./store/session.ts";
import { notLeaseHolder } from "./store/waiting-intents.ts";
import type { Writer } from "./store/writer.ts";
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
  readonly healthMs: number;
  readonly healthWaitMs: number;
  readonly stopMs: number;
  readonly stateLastsMs: number;
  readonly accessLookMs: number;
};

const TIMING: Timing = {
  leaseTermMs: LEASE_TERM_MS,
  graceMs: GRACE_MS,
  eventsMs: EVENTS_MS,
  repeatMs: REPEAT_MS,
  nvmfWaitMs: NVMF_WAIT_MS,
  healthMs: HEALTH_MS,
  healthWaitMs: HEALTH_WAIT_MS,
  stopMs: STOP_MS,
  stateLastsMs: STATE_LASTS_MS,
  accessLookMs: ACCESS_LOOK_MS,
};

/** Starts the agent. The API answers at once; the agent is ready once every object is verified. */
export async function startNode(options: NodeOptions): Promise<RunningNode> {
  const { config, log, telemetry } = options;
  const instruments = telemetry ?? NO_INSTRUMENTS;
  const kernel = tracedKernel(options.kernel, instruments.tracer);
  await using stack = new AsyncDisposableStack();
  const timing = { ...TIMING, ...options.timing };
  const { leaseTermMs, stopMs } = timing;
  const store = openStore(stack, { ...options, leaseTermMs, instruments });
  const { rows, fence, events, writer, session } = store;
  const connection = stack.use(connectTarget(config.spdkSocket, fence, instruments));
  // Whether a target that is gone or back is restored or changed depends on the database.
  connection.onDisconnected(() => session.check());
  connection.onConnected(() => session.check());
  const storeChanges = new StoreChanges();
  const spdk = spdkClient(connection, storeChanges);
  const reconciler = new Reconciler({
    config,
    rows,
    writer,
    kernel,
    connection,
    spdk,
    storeChanges,
    fence,
    ...timing,
    log,
    instruments,
  });
  stack.defer(() => reconciler.stop(AbortSignal.timeout(stopMs)));
  const access =
    config.access && stack.use(new Access(config.access, { log, lookMs: timing.accessLookMs }));
  const agent = agentOf({ config, access, kernel, ...store, reconciler, spdk });
  stack.use(nodeEvents({ agent, events, fence, reconciler, stateLastsMs: timing.stateLastsMs }));
  const { listen, socket } = config;
  const feed = watchFeed(agent);
  rows.subscribe((changes) => feed.committed(changes));
  reconciler.onChange((change) => feed.observed(change));
  const handlers = { ...handlersOf(agent, log), ...watchHandlers(agent, feed) };
  const server = stack.use(
    await startServer({ listen, access, socket, log, instruments, handlers }),
  );
  const { stateDir } = store;
  const shown = { config, access, log, agent, rows, reconciler, writer, connection, fence };
  const http = stack.use(
    await showNode(config.httpListen, telemetry, { ...shown, events, feed, stateDir }),
  );
  stack.defer(watchReadiness(agent, reconciler, server, log));
  reconciler.start();
  session.start();
  log.info({ address: server.address, http: http.address, socket }, "agent started");
  const { unprotected } = config;
  if (unprotected.length > 0) log.warn({ unprotected }, "served without TLS, to whoever connects");
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
    ...changeHandlers(agent),
    ...exportHandlers(agent),
    ...allDiskHandlers(agent),
    ...controllerHandlers(agent),
    ...cordonHandlers(agent),
    ...nodeHandlers(agent),
    ...eventHandlers(agent),
    ...explainHandlers(agent),
    ...iostatHandlers(agent),
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
  readonly access: Access | undefined;
  readonly kernel: Kernel;
  readonly rows: Rows;
  readonly writer: Writer;
  readonly session: StoreSession;
  readonly reconciler: Reconciler;
  readonly spdk: ReturnType<typeof spdkClient>;
  readonly fence: Fence;
  readonly lock: LocalLock;
  readonly copy: LocalCopy;
  readonly stateDir: StateDir;
  readonly events: EventLog;
};

function agentOf(parts: Parts): Agent {
  const { config, rows, writer, reconciler, spdk, fence, events } = parts;
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
    iostat: reconciler.iostat,
    diskReadiness,
    groupUser: (address) => reconciler.groupUser(address),
    storeContents: (id) => reconciler.adoptions.contents(id),
    adoptDisk: async (asked) => {
      writer.refuseIfUnavailable();
      return await reconciler.adoptions.adopt(asked);
    },
    lookAtDisk: (id) => reconciler.disks.looks.lookAt(id),
    lookToWipe: (id) => reconciler.disks.looks.lookToWipe(id),
    locateDisk: (row, on) => reconciler.disks.locators.switch(row, on),
    freeFor: (asked) => reconciler.freeFor(asked),
    discardGuard: () => reconciler.discardGuard,
    orphans: orphansOf(parts),
    events: {
      add: (make) => events.add(make),
      list: (query) => events.list(query),
      isDown: isDatabaseDown,
    },
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
    refuseFatalGrowth: async (row) => await refuseFatalGrowth(spdk, reconciler.volumeView(row)),
    refuseCloneOnOldTarget: async (id) => await refuseCloneOnOldTarget(spdk, id),
    pendingResize: (row) => pendingResize(reconciler.volumeView(row)),
    readExportAgain: (id) => reconciler.readExportAgain(id),
    resolveOutcome: (id) => reconciler.resolveOutcome(id),
    targetVersion: () => reconciler.target.version,
    ready: () => ready(parts),
    hold: () => fence.hold,
    components: () => components(parts),
    conditions: () => conditions(parts),
    loops: () => reconciler.loops(),
  };
}

function orphansOf({ reconciler, writer, fence }: Parts): Agent["orphans"] {
  return {
    ...reconciler.orphans,
    adopt: async (adoption) => {
      writer.refuseIfUnavailable();
      return await reconciler.orphans.adopt(adoption);
    },
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
