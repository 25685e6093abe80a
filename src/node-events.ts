// What is an event of this node besides intents: steps that fail, states that last, restarts of the target.
// A restart is one event of the node: while the target is away, and shortly after, the states of
// what lies on it are none.
import { setImmediate } from "node:timers/promises";
import type { Agent } from "./api/agent.ts";
import { STATES_MS } from "./limits.ts";
import type { NodeConditionType } from "./model/condition.ts";
import { diskState } from "./model/disk.ts";
import { exposedText } from "./model/disk-conditions.ts";
import { eventOf, traceIdOf, type Event, type ObjectKind } from "./model/event.ts";
import { LastingStates, type StateChange } from "./model/lasting-states.ts";
import { lvolConditions, lvolState, type LvolState } from "./model/lvol-state.ts";
import type { LvolRow } from "./model/lvol.ts";
import { healthText, recordedHealth } from "./model/seen-health.ts";
import { snapshotState, type SnapshotRow } from "./model/snapshot.ts";
import type { FailedStep } from "./reconcile/engine/kind.ts";
import type { Reconciler } from "./reconcile/reconciler.ts";
import type { ObservedObject } from "./reconcile/target/observed.ts";
import type { EventLog } from "./store/event-log.ts";
import type { Fence } from "./store/fence.ts";
import type { RowChange } from "./store/rows.ts";

/** What has states of its own; those of controllers show in their disks. */
type Kind = Exclude<RowChange["kind"], "controller">;

export type NodeEventsOptions = {
  readonly agent: Agent;
  readonly events: Pick<EventLog, "add" | "leads">;
  readonly fence: Fence;
  /** Since when the target is connected; undefined: it is not. */
  readonly targetSince: () => Date | undefined;
  readonly stateLastsMs: number;
};

/** Objects that are looked at in one turn of the event loop. */
const TURN_OBJECTS = 128;

/** Conditions of the node that are normally TRUE. */
const NORMALLY_TRUE: ReadonlySet<NodeConditionType> = new Set([
  "DatabaseReachable",
  "TargetConnected",
  "LeaseHeld",
  "LocalLockHeld",
  "ChangesCommitted",
  "StateDirUsable",
]);

export class NodeEvents implements Disposable {
  readonly #options: NodeEventsOptions;
  readonly #conditions = new LastingStates();
  readonly #states: Readonly<Record<Kind, LastingStates>> = {
    disk: new LastingStates(),
    lvol: new LastingStates(),
    snapshot: new LastingStates(),
  };
  /** Objects whose state may have changed, and since when. */
  readonly #touched: Readonly<Record<Kind, Map<string, number>>> = {
    disk: new Map(),
    lvol: new Map(),
    snapshot: new Map(),
  };
  /** Disks whose volumes may show old bytes to hosts. */
  readonly #exposed = new Set<string>();
  readonly #timer: NodeJS.Timeout;
  readonly #stack = new DisposableStack();
  #looking = false;
  #epoch: bigint | undefined;

  constructor(options: NodeEventsOptions) {
    this.#options = options;
    const { rows } = options.agent;
    this.#stack.defer(rows.subscribe((changes) => this.#onRows(changes)));
    this.#stack.defer(options.fence.onChange(() => this.#onFence()));
    this.#timer = setInterval(() => void this.#lookOnce(), STATES_MS);
    this.#timer.unref();
  }

  #onRows(changes: readonly RowChange[]): void {
    for (const change of changes) {
      const { kind, id } = change;
      if (kind === "controller") continue;
      if (change.kind === "disk") this.#onDisk(change);
      // As its row says when it is read or made: what became of it since is a change.
      this.#states[kind].begin(id, () => this.#recordedState(kind, id));
      this.touched({ kind, id });
    }
  }

  /** The class of its health was judged with a hysteresis already. */
  #onDisk({ id, before }: Extract<RowChange, { kind: "disk" }>): void {
    const row = this.#options.agent.rows.disk(id);
    if (row === undefined || before === undefined) return;
    const object = { objectKind: "disk", objectId: id } as const;
    if (before.wipe !== undefined && row.wipe === undefined) {
      const isDone = row.wipeEnded === undefined;
      const reason = isDone ? "DISK_WIPED" : "WIPE_ENDED";
      const message = row.wipeEnded ?? "";
      const traceId = traceIdOf(row.traceparent);
      this.#tell(() => eventOf({ ...object, reason, message, traceId, time: new Date() }));
    }
    if (row.health === before.health) return;
    this.#tell(() =>
      eventOf({
        ...object,
        reason: "HEALTH_CHANGED",
        before: before.health,
        after: row.health,
        message: healthText(recordedHealth(row)),
        time: row.healthTime ?? new Date(),
      }),
    );
  }

  #recordedState(kind: Kind, id: string): string {
    const { rows } = this.#options.agent;
    if (kind === "disk") return rows.disk(id)?.state ?? "";
    const row = kind === "lvol" ? rows.lvol(id) : rows.snapshots.get(id);
    return row === undefined ? "" : recordedState(row);
  }

  /** Undefined: every object. */
  touched(change: ObservedObject | undefined): void {
    const now = Date.now();
    if (change !== undefined) return this.#touch(change.kind, change.id, now);
    const { rows } = this.#options.agent;
    for (const { id } of rows.disks()) this.#touch("disk", id, now);
    for (const { id } of rows.lvols()) this.#touch("lvol", id, now);
    for (const { id } of rows.snapshots.all()) this.#touch("snapshot", id, now);
  }

  #touch(kind: Kind, id: string, now: number): void {
    if (!this.#touched[kind].has(id)) this.#touched[kind].set(id, now);
  }

  stepFailed(objectKind: ObjectKind, failure: FailedStep): void {
    const { kind, id, step, before, message, unanswered, trace_id: traceId = "" } = failure;
    // What a target that is gone has not answered says nothing of the object.
    if (unanswered || (message === before && kind === "retry")) return;
    const reason = kind === "fatal" ? "GAVE_UP" : "STEP_FAILED";
    const time = new Date();
    const told = { objectKind, objectId: id, reason, time, traceId } as const;
    this.#tell(() => eventOf({ ...told, before, after: message, message: step }));
  }

  targetRestarted(): void {
    this.#tellNode({ reason: "TARGET_RESTARTED", after: this.#options.agent.targetVersion() });
  }

  #onFence(): void {
    const { epoch } = this.#options.fence;
    if (epoch === this.#epoch || !this.#options.events.leads) return;
    this.#epoch = epoch;
    this.#tellNode({ reason: "LEASE_ACQUIRED", after: `epoch ${epoch}` });
  }

  #tellNode(event: Pick<Event, "reason"> & Partial<Event>): void {
    const { nodeId } = this.#options.agent;
    const time = new Date();
    this.#tell(() => eventOf({ objectKind: "node", objectId: nodeId, time, ...event }));
  }

  #tell(make: () => Event): void {
    this.#options.events.add(() => [make()]);
  }

  async #lookOnce(): Promise<void> {
    if (this.#looking) return;
    this.#looking = true;
    try {
      await this.#look();
    } finally {
      this.#looking = false;
    }
  }

  /** Which states have lasted. */
  async #look(): Promise<void> {
    const { agent, events, targetSince, stateLastsMs } = this.#options;
    if (!events.leads || agent.rows.copied) return;
    this.#lookAtNode();
    const since = targetSince();
    if (since === undefined) return;
    this.#lookAtExposure();
    for (const kind of ["disk", "lvol", "snapshot"] as const) await this.#observe(kind);
    const beforeMs = Date.now() - stateLastsMs;
    // What the target's absence has done to them is over, or has lasted since it is back.
    if (since.getTime() > beforeMs) return;
    for (const kind of ["disk", "lvol", "snapshot"] as const) {
      for (const change of this.#states[kind].lasting({ beforeMs })) {
        this.#tell(() => this.#stateEvent(kind, change));
      }
    }
  }

  /** Told at once: a short time is enough for a host to see what is not its own. */
  #lookAtExposure(): void {
    const { agent } = this.#options;
    for (const row of agent.rows.disks()) {
      const { exposure } = agent.diskReadiness(row);
      const isExposed = exposure !== undefined && exposure.reachable > 0;
      if (isExposed === this.#exposed.has(row.id)) continue;
      if (isExposed) this.#exposed.add(row.id);
      else this.#exposed.delete(row.id);
      const message = isExposed ? exposedText(exposure) : "";
      const [before, after] = isExposed ? ["FALSE", "TRUE"] : ["TRUE", "FALSE"];
      const object = { objectKind: "disk", objectId: row.id } as const;
      const reason = "OLD_BYTES_EXPOSED";
      this.#tell(() => eventOf({ ...object, reason, before, after, message, time: new Date() }));
    }
  }

  #lookAtNode(): void {
    const now = Date.now();
    const conditions = this.#options.agent.conditions();
    for (const { type, status, since } of conditions) {
      this.#conditions.begin(type, () => (NORMALLY_TRUE.has(type) ? "TRUE" : "FALSE"));
      this.#conditions.observe(type, status, since?.getTime() ?? now);
    }
    const beforeMs = now - this.#options.stateLastsMs;
    for (const { id, before, after, sinceMs } of this.#conditions.lasting({ beforeMs })) {
      const message = conditions.find(({ type }) => type === id)?.message ?? "";
      this.#tellNode({
        reason: "CONDITION_CHANGED",
        before: `${id}=${before}`,
        after: `${id}=${after}`,
        message,
        time: new Date(sinceMs),
      });
    }
  }

  async #observe(kind: Kind): Promise<void> {
    const touched = this.#touched[kind];
    let left = TURN_OBJECTS;
    for (const [id, sinceMs] of touched) {
      touched.delete(id);
      const state = this.#stateOf(kind, id);
      if (state === undefined) this.#states[kind].forget(id);
      else this.#states[kind].observe(id, state, sinceMs);
      left -= 1;
      if (left > 0) continue;
      left = TURN_OBJECTS;
      await setImmediate();
    }
  }

  /** Undefined: it has no row. */
  #stateOf(kind: Kind, id: string): string | undefined {
    const { agent } = this.#options;
    switch (kind) {
      case "disk": {
        const row = agent.rows.disk(id);
        return row && diskState(row, agent.diskReadiness(row));
      }
      case "lvol": {
        const row = agent.rows.lvol(id);
        return row && lvolState(agent.view(row));
      }
      case "snapshot": {
        const row = agent.rows.snapshots.get(id);
        return row && snapshotState(agent.snapshotView(row));
      }
    }
  }

  #stateEvent(kind: Kind, { id, before, after, sinceMs }: StateChange): Event {
    const { agent } = this.#options;
    const lvol = kind === "lvol" ? agent.rows.lvol(id) : undefined;
    const snapshot = kind === "snapshot" ? agent.rows.snapshots.get(id) : undefined;
    const disk = kind === "disk" ? agent.rows.disk(id) : undefined;
    const row = lvol ?? snapshot ?? disk;
    const unmet = lvol && lvolConditions(agent.view(lvol)).find(isUnmet);
    const why = disk && (agent.diskReadiness(disk).reason || disk.stateReason);
    return eventOf({
      objectKind: kind,
      objectId: id,
      reason: "STATE_CHANGED",
      before,
      after,
      message: after === "UP" ? "" : (unmet?.message ?? why ?? row?.lastError ?? ""),
      traceId: traceIdOf(row?.traceparent),
      time: new Date(sinceMs),
    });
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#stack.dispose();
  }
}

/** As NodeEvents, told by the reconciler. */
export function nodeEvents({
  reconciler,
  ...options
}: Omit<NodeEventsOptions, "targetSince"> & { readonly reconciler: Reconciler }): NodeEvents {
  const targetSince = () => {
    const { connected, since } = reconciler.target;
    return connected ? since : undefined;
  };
  const told = new NodeEvents({ ...options, targetSince });
  reconciler.onChange((change) => told.touched(change));
  reconciler.onFailure((kind, failure) => told.stepFailed(kind, failure));
  reconciler.onTargetRestart(() => told.targetRestarted());
  return told;
}

function isUnmet({ status }: { readonly status: string }): boolean {
  return status !== "TRUE";
}

/** The state that its row says it was in: what an agent that starts need not tell again. */
function recordedState(
  row: Pick<
    LvolRow | SnapshotRow,
    "deleteTime" | "deleteRequestedTime" | "failed" | "lvolUuid" | "observedGeneration"
  >,
): LvolState {
  if (row.deleteTime !== undefined) return "DELETED";
  if (row.deleteRequestedTime !== undefined) return "DELETING";
  if (row.failed) return "FAILED";
  return row.lvolUuid !== undefined && row.observedGeneration > 0n ? "UP" : "CREATING";
}
