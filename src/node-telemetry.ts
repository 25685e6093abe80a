// Telemetry of the node: the gauges read at each scrape, the duration of intents, and the HTTP port
// for metrics and probes.
import type { Logger } from "pino";
import type { Access } from "./access/access.ts";
import type { Agent } from "./api/agent.ts";
import { nodeCapacity } from "./api/capacity.ts";
import { startHttp } from "./api/http.ts";
import type { Config } from "./config.ts";
import type { WatchFeed } from "./api/watch-feed.ts";
import { DISK_STATES, diskState, type DiskReadiness } from "./model/disk.ts";
import { LVOL_STATES, lvolState } from "./model/lvol-state.ts";
import { SNAPSHOT_STATES, snapshotState } from "./model/snapshot.ts";
import { unconfirmedHostCount } from "./model/lvol.ts";
import { DISK_HEALTHS } from "./model/disk-health.ts";
import { recordedHealth } from "./model/seen-health.ts";
import { SPACE_LEVELS } from "./model/space.ts";
import { SUSPECT_STATES } from "./reconcile/engine/suspects.ts";
import { OUTCOME_SUBJECTS } from "./model/unknown-outcome.ts";
import type { Reconciler } from "./reconcile/reconciler.ts";
import type { SpdkConnection } from "./spdk/connection.ts";
import type { Fence } from "./store/fence.ts";
import type { EventLog } from "./store/event-log.ts";
import type { Rows } from "./store/rows.ts";
import type { StateDir } from "./store/state-dir.ts";
import type { Writer } from "./store/writer.ts";
import { registerGauges, type NodeFigures } from "./telemetry/gauges.ts";
import { IntentClock } from "./telemetry/intent-clock.ts";
import { healthTextOf } from "./telemetry/health-text.ts";
import { iostatText } from "./telemetry/iostat-text.ts";
import type { Telemetry } from "./telemetry/telemetry.ts";

type Parts = {
  readonly config: Pick<Config, "metricsIostat">;
  readonly access: Access | undefined;
  readonly log: Logger;
  readonly agent: Agent;
  readonly rows: Rows;
  readonly reconciler: Reconciler;
  readonly writer: Writer;
  readonly connection: SpdkConnection;
  readonly fence: Fence;
  readonly stateDir: Pick<StateDir, "status">;
  readonly events: Pick<EventLog, "queued">;
  readonly feed: Pick<WatchFeed, "readers">;
};

export type Shown = AsyncDisposable & {
  /** HOST:PORT as bound; undefined: not served. */
  readonly address: string | undefined;
};

/** Registers gauges and serves metrics and probes. Throws ListenError. No-op without telemetry. */
export async function showNode(
  listen: string | undefined,
  telemetry: Telemetry | undefined,
  parts: Parts,
): Promise<Shown> {
  await using stack = new AsyncDisposableStack();
  let address: string | undefined;
  if (telemetry !== undefined) {
    stack.defer(timeIntents(telemetry, parts.rows));
    registerGauges(telemetry.meter, () => figures(parts));
    if (listen !== undefined) {
      const notReady = () => reasons(parts.agent);
      const scrape = async () => (await telemetry.scrape()) + (await iostat(parts)) + health(parts);
      const { access, log } = parts;
      const http = await startHttp({ listen, access, log, scrape, notReady });
      address = stack.use(http).address;
    }
  }
  const owned = stack.move();
  return { address, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Read for this scrape, unless somebody else has just read them. Nothing while the target is away. */
async function iostat({ config, reconciler }: Parts): Promise<string> {
  const { metricsIostat } = config;
  if (metricsIostat === "off") return "";
  const lvolIds = metricsIostat === "volumes" ? "all" : "none";
  const filter = { lvolIds, diskIds: "all", includeDisks: true } as const;
  return iostatText(await reconciler.iostat.current(filter));
}

/** As last read; nothing of disks that gave no health page. */
function health({ agent, rows }: Parts): string {
  const now = Date.now();
  return healthTextOf(
    [...rows.disks()].flatMap((row) => {
      const { sample } = agent.diskReadiness(row).health ?? recordedHealth(row);
      if (sample === undefined) return [];
      const { page, time } = sample;
      return [{ ...page, diskId: row.id, ageSeconds: (now - time.getTime()) / 1_000 }];
    }),
  );
}

function timeIntents({ metrics }: Telemetry, rows: Rows): () => void {
  const clock = new IntentClock(metrics);
  return rows.subscribe((changes) => {
    for (const change of changes) {
      // Measure only what this process has committed: it did not see the commits of other agents.
      const row = change.kind === "lvol" && change.ours ? rows.lvol(change.id) : undefined;
      if (row !== undefined) clock.committed(row);
    }
  });
}

/** Why the agent is not ready, each with what to do about it. */
function reasons(agent: Agent): readonly string[] {
  return agent
    .components()
    .filter(({ ok, needed }) => needed && !ok)
    .flatMap(({ name, reason, cure }) => [`${name}: ${reason}`, `  -> ${cure}`]);
}

function figures(parts: Parts): NodeFigures {
  const { agent, rows, reconciler, writer, connection, fence, stateDir } = parts;
  const readiness = [...rows.disks()].map((row) => ({ row, is: agent.diskReadiness(row) }));
  const disks = readiness.map(({ row, is }) => diskState(row, is));
  const levels = readiness.flatMap(({ row, is }) =>
    diskState(row, is) === "UP" && is.space !== undefined ? [is.space.level] : [],
  );
  const volumes = [...rows.lvols()].map((row) =>
    row.deleteTime === undefined ? lvolState(agent.view(row)) : "DELETED",
  );
  const snapshots = [...rows.snapshots.all()].map((row) =>
    row.deleteTime === undefined ? snapshotState(agent.snapshotView(row)) : "DELETED",
  );
  // Of rows that were not read yet nothing is known, which is not 0.
  const known = rows.node !== undefined;
  const { exports, ...capacity } = nodeCapacity(agent);
  const { target, lanes } = reconciler;
  const orphans = reconciler.orphans.known();
  const orphansOf = (wanted: string) => orphans.filter(({ kind }) => kind === wanted).length;
  return {
    volumes: known ? tally(LVOL_STATES, volumes) : {},
    snapshots: known ? tally(SNAPSHOT_STATES, snapshots) : {},
    disks: known ? tally(DISK_STATES, disks) : {},
    capacity: known && !rows.copied ? capacity : undefined,
    health: known
      ? tally(
          DISK_HEALTHS,
          readiness.map(({ row, is }) => (is.health ?? recordedHealth(row)).health),
        )
      : {},
    space: known ? tally(SPACE_LEVELS, levels) : {},
    exports: known ? { used: exports, limit: agent.maxExports } : undefined,
    unconfirmedHosts: unconfirmedHostCount(rows.lvols()),
    exposure: exposureOf(readiness),
    orphans: { lvols: orphansOf("lvol"), subsystems: orphansOf("subsystem") },
    suspects: tally(
      SUSPECT_STATES,
      reconciler.suspects().map(({ state }) => state),
    ),
    unknownOutcomes: tally(
      OUTCOME_SUBJECTS,
      reconciler.unknownOutcomes().map(({ of }) => of),
    ),
    iostatReaders: reconciler.iostat.readers,
    watchers: parts.feed.readers,
    queues: {
      intents: writer.queued.intents,
      records: writer.queued.records,
      events: parts.events.queued,
      lanes: lanes.waiting,
      steps: lanes.running,
      spdk_unsent: connection.unanswered.queued,
      spdk_unanswered: connection.unanswered.sent,
    },
    conditions: {
      ready: agent.ready(),
      database_reachable: writer.connected,
      target_connected: target.connected,
      lease_held: fence.leaseHeld,
      local_lock_held: fence.lockHeld,
      changes_committed: writer.commits.status.ok,
      state_dir_usable: stateDir.status.ok,
      on_hold: fence.hold !== undefined,
    },
  };
}

function exposureOf(
  readiness: readonly { readonly is: Pick<DiskReadiness, "exposure"> }[],
): NodeFigures["exposure"] {
  return readiness.reduce(
    ({ reachable, held }, { is: { exposure } }) => ({
      reachable: reachable + (exposure?.reachable ?? 0),
      held: held + (exposure?.held ?? 0),
    }),
    { reachable: 0, held: 0 },
  );
}

function tally(
  states: readonly string[],
  observed: readonly string[],
): Readonly<Record<string, number>> {
  const counts = new Map(states.map((state) => [state, 0]));
  for (const state of observed) counts.set(state, (counts.get(state) ?? 0) + 1);
  return Object.fromEntries(counts);
}
