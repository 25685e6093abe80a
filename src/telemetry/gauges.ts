// The gauges, read at each scrape: objects by state, capacity, queue lengths and conditions of the
// node. They never count between scrapes.
import type { Meter } from "@opentelemetry/api";

export type NodeFigures = {
  /** Number of volumes by state, zero included. */
  readonly volumes: Readonly<Record<string, number>>;
  /** Number of snapshots by state, zero included. */
  readonly snapshots: Readonly<Record<string, number>>;
  /** Number of disks by state, zero included. */
  readonly disks: Readonly<Record<string, number>>;
  /** Number of disks by health, zero included. */
  readonly health: Readonly<Record<string, number>>;
  /** Undefined: not known yet, as is exports then; the numbers by state are empty. */
  readonly capacity:
    | {
        readonly totalBytes: bigint;
        readonly freeBytes: bigint;
        readonly promisedBytes: bigint;
        readonly allocatedBytes: bigint;
        readonly snapshotBytes: bigint;
        readonly orphanBytes: bigint;
      }
    | undefined;
  /** Number of disks that are UP by how much of them is free, zero included. */
  readonly space: Readonly<Record<string, number>>;
  readonly exports: { readonly used: number; readonly limit: number } | undefined;
  readonly unconfirmedHosts: number;
  /** Volumes that take clusters which may hold old bytes. */
  readonly exposure: { readonly reachable: number; readonly held: number };
  readonly orphans: { readonly lvols: number; readonly subsystems: number };
  /** Steps that may have killed the target, by state, zero included. */
  readonly suspects: Readonly<Record<string, number>>;
  /** Changes whose answers were lost, by what they change, zero included. */
  readonly unknownOutcomes: Readonly<Record<string, number>>;
  /** Streams of I/O counters. */
  readonly iostatReaders: number;
  /** Open streams of Watch. */
  readonly watchers: number;
  readonly queues: Readonly<Record<string, number>>;
  readonly conditions: Readonly<Record<string, boolean>>;
};

function gaugesOf(meter: Meter) {
  const gauge = (name: string, description: string, unit = "") =>
    meter.createObservableGauge(name, { description, unit });
  const volumes = gauge("storagenode.volumes", "Volumes by state");
  const snapshots = gauge("storagenode.snapshots", "Snapshots by state");
  const disks = gauge("storagenode.disks", "Disks by state");
  const health = gauge("storagenode.disk_health", "Disks by health");
  const capacity = gauge(
    "storagenode.capacity",
    "Bytes of the disks that are UP, and bytes promised on all disks, by kind",
    "By",
  );
  const space = gauge("storagenode.disk_space", "Disks that are UP by how much of them is free");
  const exports = gauge("storagenode.exports", "Exports in use, and their limit, by kind");
  const unconfirmed = gauge(
    "storagenode.unconfirmed_hosts",
    "Hosts of volumes that may not connect before they are confirmed",
  );
  const exposure = gauge(
    "storagenode.old.bytes.exports",
    "Volumes that take clusters which may hold old bytes: reachable for hosts, and held back",
  );
  const orphans = gauge("storagenode.orphans", "Objects on the target without a row, by kind");
  const suspects = gauge("storagenode.suspects", "Steps that may have killed the target, by state");
  const outcomes = gauge(
    "storagenode.unknown_outcomes",
    "Changes of the target whose answers were lost, by what they change",
  );
  const readers = gauge("storagenode.iostat.readers", "Streams that read I/O counters");
  const watchers = gauge("storagenode.watchers", "Open streams of Watch");
  const queue = gauge("storagenode.queue.length", "Items that wait, by queue");
  const condition = gauge(
    "storagenode.condition",
    "1 if a condition of the node holds, otherwise 0",
  );
  const byState = { volumes, snapshots, disks, health, suspects, exposure };
  const sizes = { capacity, space, exports, unconfirmed, orphans, outcomes, readers, watchers };
  return { ...byState, ...sizes, queue, condition };
}

export function registerGauges(meter: Meter, read: () => NodeFigures): void {
  const gauges = gaugesOf(meter);
  meter.addBatchObservableCallback((observe) => {
    const now = read();
    const labelled = [
      [gauges.volumes, "state", now.volumes],
      [gauges.snapshots, "state", now.snapshots],
      [gauges.disks, "state", now.disks],
      [gauges.health, "state", now.health],
      [gauges.suspects, "state", now.suspects],
      [gauges.capacity, "kind", kindsOf(now.capacity)],
      [gauges.space, "level", now.space],
      [gauges.exports, "kind", now.exports ?? {}],
      [gauges.exposure, "state", now.exposure],
      [gauges.orphans, "kind", { lvol: now.orphans.lvols, subsystem: now.orphans.subsystems }],
      [gauges.outcomes, "of", now.unknownOutcomes],
      [gauges.queue, "queue", now.queues],
      [gauges.condition, "condition", numbersOf(now.conditions)],
    ] as const;
    for (const [gauge, label, values] of labelled) {
      for (const [name, value] of Object.entries(values)) {
        observe.observe(gauge, value, { [label]: name });
      }
    }
    observe.observe(gauges.unconfirmed, now.unconfirmedHosts);
    observe.observe(gauges.readers, now.iostatReaders);
    observe.observe(gauges.watchers, now.watchers);
  }, Object.values(gauges));
}

function numbersOf(holds: NodeFigures["conditions"]): Readonly<Record<string, number>> {
  return Object.fromEntries(Object.entries(holds).map(([name, value]) => [name, value ? 1 : 0]));
}

function kindsOf(capacity: NodeFigures["capacity"]): Readonly<Record<string, number>> {
  if (capacity === undefined) return {};
  return {
    total: Number(capacity.totalBytes),
    free: Number(capacity.freeBytes),
    promised: Number(capacity.promisedBytes),
    allocated: Number(capacity.allocatedBytes),
    snapshots: Number(capacity.snapshotBytes),
    orphans: Number(capacity.orphanBytes),
  };
}
