// The health of the node's parts, for GetHealth and probes, and its conditions. The node is ready if and
// only if every component is ok that it needs, so one that is not ready always says why.
import type { Access } from "./access/access.ts";
import type { ComponentHealth, NodeCondition } from "./api/agent.ts";
import type { Config } from "./config.ts";
import { componentCure } from "./explain/component-cures.ts";
import { OUTCOME_LATE_MS } from "./limits.ts";
import type { LocalLock } from "./local/local-lock.ts";
import type { NodeConditionType } from "./model/condition.ts";
import { unconfirmedHostCount } from "./model/lvol.ts";
import type { Suspect } from "./reconcile/engine/suspects.ts";
import type { Reconciler } from "./reconcile/reconciler.ts";
import type { UnknownOutcomeOf } from "./reconcile/target/unknown-outcomes.ts";
import type { Fence } from "./store/fence.ts";
import type { LocalCopy } from "./store/local-copy.ts";
import type { Rows } from "./store/rows.ts";
import type { StoreSession } from "./store/session.ts";
import type { StateDir } from "./store/state-dir.ts";
import type { Writer } from "./store/writer.ts";

type HealthSources = {
  readonly access: Pick<Access, "status"> | undefined;
  readonly config: Pick<Config, "unprotected">;
  readonly rows: Rows;
  readonly copy: Pick<LocalCopy, "status">;
  readonly session: Pick<StoreSession, "status" | "leaseStatus">;
  readonly reconciler: Reconciler;
  readonly fence: Fence;
  readonly lock: Pick<LocalLock, "reason">;
  readonly writer: Pick<Writer, "commits">;
  readonly stateDir: Pick<StateDir, "status">;
};

type Status = Omit<ComponentHealth, "needed" | "cure">;

/** Whether every component is ok that the node needs. Costs little: it is asked at each change. */
export function ready(sources: HealthSources): boolean {
  return sources.reconciler.verification.done && needed(sources).every(({ ok }) => ok);
}

export function components(sources: HealthSources): readonly ComponentHealth[] {
  return [
    ...[...needed(sources), verifyHealth(sources)].map((status) => componentOf(status, true)),
    ...others(sources).map((status) => componentOf(status, false)),
  ];
}

function componentOf(status: Status, isNeeded: boolean): ComponentHealth {
  const cure = status.ok ? "" : componentCure(status.name, status.reason);
  return { ...status, needed: isNeeded, cure };
}

/** What the node needs besides verification, whose progress is counted only when somebody asks. */
function needed(sources: HealthSources): readonly Status[] {
  const { session, reconciler, fence, stateDir } = sources;
  const { target } = reconciler;
  const database = session.status;
  const silent = { ...database, ok: false, reason: "no answer in time" };
  return [
    { name: "database", ...(database.ok && fence.databaseAway ? silent : database) },
    writesHealth(sources),
    leaseHealth(sources),
    { name: "target", ok: target.connected, reason: target.reason, since: target.since },
    {
      name: "hold",
      ok: fence.hold === undefined,
      reason: fence.hold ?? "",
      since: fence.holdTime,
    },
    { name: "state-dir", ...stateDir.status },
  ];
}

function others(sources: HealthSources): readonly Status[] {
  const { reconciler, copy } = sources;
  return [
    { name: "kernel", ...reconciler.kernelStatus },
    { name: "copy", ...copy.status },
    restoreHealth(reconciler),
    loadHealth(reconciler),
    suspectsHealth(reconciler.suspects()),
    outcomesHealth(reconciler.unknownOutcomes(), new Date()),
    accessHealth(sources),
  ];
}

function writesHealth({ writer, fence }: HealthSources): Status {
  const status = writer.commits.status;
  const held = fence.hold !== undefined && !status.ok && !writer.commits.tried;
  return {
    name: "writes",
    ...status,
    ...(held && { reason: "not tried while the node is on hold" }),
  };
}

function leaseHealth({ session, fence, lock }: HealthSources): Status {
  const status = session.leaseStatus;
  if (!fence.lockHeld) return { ...status, name: "lease", ok: false, reason: lock.reason };
  return { ...status, name: "lease" };
}

function verifyHealth({ rows, reconciler: { verification } }: HealthSources): Status {
  const since = STARTED;
  if (verification.done) return { name: "verify", ok: true, reason: "", since };
  if (rows.node === undefined) {
    return { name: "verify", ok: false, reason: "the rows were not read yet", since };
  }
  if (rows.copied) {
    const reason = "the rows of the database were not read yet";
    return { name: "verify", ok: false, reason, since };
  }
  const { observed, all } = verification.progress;
  const reason = `${observed} of ${all} disks, volumes and snapshots were observed since the start`;
  return { name: "verify", ok: false, reason, since };
}

/** While the target is away its own component says so. */
function restoreHealth(reconciler: Reconciler): Status {
  const { target } = reconciler;
  const { exports, exportsBack, hosts, hostsBack } = reconciler.restored();
  const ok = !target.connected || exportsBack === exports;
  const reason = `${exportsBack} of ${exports} exports and ${hostsBack} of ${hosts} hosts are restored`;
  return { name: "restore", ok, reason: ok ? "" : reason, since: target.since };
}

/** Not ill, but slow: the target takes the time that it needs. */
function loadHealth({ target, targetLoads, lanes }: Reconciler): Status {
  const status = { name: "load", ok: true, since: target.since } as const;
  if (!target.connected) return { ...status, reason: "" };
  if (targetLoads) return { ...status, reason: "the target attaches or examines a disk" };
  if (lanes.running < BURST) return { ...status, reason: "" };
  const reason = `the target works off ${lanes.running} steps, and ${lanes.waiting} wait`;
  return { ...status, reason };
}

/** So many steps at once are named. */
const BURST = 100;

export function conditions({
  rows,
  session,
  reconciler,
  fence,
  lock,
  writer,
  stateDir,
}: HealthSources): readonly NodeCondition[] {
  const condition = (
    type: NodeConditionType,
    ok: boolean,
    message: string,
    since?: Date,
  ): NodeCondition => ({
    type,
    status: ok ? "TRUE" : "FALSE",
    reason: ok ? "Yes" : "No",
    message,
    since,
  });
  const { target } = reconciler;
  const { status, leaseStatus } = session;
  const writes = writer.commits.status;
  const folder = stateDir.status;
  const unconfirmed = unconfirmedHostCount(rows.lvols());
  return [
    condition("DatabaseReachable", status.ok, status.reason, status.since),
    condition("TargetConnected", target.connected, target.reason, target.since),
    condition("LeaseHeld", fence.leaseHeld, leaseStatus.reason, leaseStatus.since),
    condition("LocalLockHeld", fence.lockHeld, lock.reason),
    condition("ChangesCommitted", writes.ok, writes.reason, writes.since),
    condition("StateDirUsable", folder.ok, folder.reason, folder.since),
    condition("OnHold", fence.hold !== undefined, fence.hold ?? ""),
    condition("HostsUnconfirmed", unconfirmed > 0, unconfirmedText(unconfirmed)),
  ];
}

function unconfirmedText(hosts: number): string {
  if (hosts === 0) return "";
  return `${hosts} hosts of volumes may not connect before ConfirmHosts: their rows come from an older database`;
}

/** A change that killed the target will be tried again: hosts lose their connections then. */
function suspectsHealth(suspects: readonly Suspect[]): Status {
  const [worst] = suspects.toSorted((a, b) => b.failure.attempt - a.failure.attempt);
  if (worst === undefined) return { name: "suspects", ok: true, reason: "", since: STARTED };
  const { message, nextTryTime, crashTime = STARTED } = worst.failure;
  const others = suspects.length === 1 ? "" : ` (and ${suspects.length - 1} more)`;
  const object = `${worst.over === "lvol" ? "volume" : worst.over} ${worst.id}`;
  const when =
    worst.state === "convicted"
      ? `next try at ${nextTryTime.toISOString()}`
      : "tried once all others are done";
  const reason = `${object}: ${message}; ${when}${others}`;
  return { name: "suspects", ok: false, reason, since: crashTime };
}

function outcomesHealth(unknown: readonly UnknownOutcomeOf[], now: Date): Status {
  const [oldest] = unknown.toSorted((a, b) => a.since.getTime() - b.since.getTime());
  if (oldest === undefined) return { name: "outcomes", ok: true, reason: "", since: STARTED };
  const { since, method, id } = oldest;
  const ok = now.getTime() - since.getTime() < OUTCOME_LATE_MS;
  const others = unknown.length === 1 ? "" : ` (and ${unknown.length - 1} more)`;
  const reason =
    `${method} for ${id} was sent and not answered since ${since.toISOString()}${others}; ` +
    `ResolveOutcome ends the wait`;
  return { name: "outcomes", ok, reason: ok ? "" : reason, since };
}

/** Nothing here makes the node not ready: it serves all who may call. */
function accessHealth({ access, config: { unprotected } }: HealthSources): Status {
  if (access !== undefined) return { name: "access", ...access.status };
  const ok = unprotected.length === 0;
  const reason = ok ? "" : `no TLS, and whoever connects is an operator: ${unprotected.join(", ")}`;
  return { name: "access", ok, reason, since: STARTED };
}

/** Since when a part is fine that was never otherwise. */
const STARTED = new Date();
