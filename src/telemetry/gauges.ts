// What is read at the moment of a scrape: where the node's objects stand and what is queued. Nothing is
// counted between scrapes.
import type { Meter } from "@opentelemetry/api";

export type NodeFigures = {
  /** Every state is named, also those that nothing is in. */
  readonly volumes: Readonly<Record<string, number>>;
  readonly disks: Readonly<Record<string, number>>;
  readonly capacity: {
    readonly totalBytes: bigint;
    readonly freeBytes: bigint;
    readonly promisedBytes: bigint;
  };
  readonly exports: { readonly used: number; readonly limit: number };
  readonly orphans: { readonly lvols: number; readonly subsystems: number };
  readonly queues: Readonly<Record<string, number>>;
  readonly conditions: Readonly<Record<string, boolean>>;
};

export function registerGauges(meter: Meter, read: () => NodeFigures): void {
  const gauge = (name: string, description: string, unit = "") =>
    meter.createObservableGauge(name, { description, unit });
  const volumes = gauge("storagenode.volumes", "Volumes by state");
  const disks = gauge("storagenode.disks", "Disks by state");
  const capacity = gauge(
    "storagenode.capacity",
    "Room on the disks that are UP, and what is promised of all, by kind",
    "By",
  );
  const exports = gauge("storagenode.exports", "Exports used, and how many the target can hold");
  const orphans = gauge("storagenode.orphans", "Objects on the target that no row names");
  const queue = gauge("storagenode.queue.length", "What waits, by queue");
  const condition = gauge("storagenode.condition", "1 where a condition of the node holds");
  const all = [volumes, disks, capacity, exports, orphans, queue, condition];
  meter.addBatchObservableCallback((observe) => {
    const now = read();
    for (const [state, count] of Object.entries(now.volumes)) {
      observe.observe(volumes, count, { state });
    }
    for (const [state, count] of Object.entries(now.disks)) {
      observe.observe(disks, count, { state });
    }
    const { totalBytes, freeBytes, promisedBytes } = now.capacity;
    observe.observe(capacity, Number(totalBytes), { kind: "total" });
    observe.observe(capacity, Number(freeBytes), { kind: "free" });
    observe.observe(capacity, Number(promisedBytes), { kind: "promised" });
    observe.observe(exports, now.exports.used, { kind: "used" });
    observe.observe(exports, now.exports.limit, { kind: "limit" });
    observe.observe(orphans, now.orphans.lvols, { kind: "lvol" });
    observe.observe(orphans, now.orphans.subsystems, { kind: "subsystem" });
    for (const [name, length] of Object.entries(now.queues)) {
      observe.observe(queue, length, { queue: name });
    }
    for (const [name, holds] of Object.entries(now.conditions)) {
      observe.observe(condition, holds ? 1 : 0, { condition: name });
    }
  }, all);
}
