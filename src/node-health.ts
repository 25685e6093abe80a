// The health of the node's parts, for GetHealth and probes, and its conditions.
import type { Access } from "./access/access.ts";
import type { ComponentHealth, NodeCondition } from "./api/agent.ts";
import type { Config } from "./config.ts";
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

type HealthSources = {
  readonly access: Pick<Access, "status"> | undefined;
  readonly config: Pick<Config, "unprotected">;
  readonly rows: Rows;
  readonly copy: Pick<LocalCopy, "status">;
  readonly session: Pick<StoreSession, "status" | "leaseStatus">;
  readonly reconciler: Reconciler;
  readonly fence: Fence;
  readonly lock: Pick<LocalLock, "reason">;
};

export function components(sources: HealthSources): readonly ComponentHealth[] {
  const { session, reconciler, copy } = sources;
  const { target } = reconciler;
  return [
    { name: "database", ...session.status },
    { name: "target", ok: target.connected, reason: target.reason, since: target.since },
    { name: "lease", ...session.leaseStatus },
    { name: "kernel", ...reconciler.kernelStatus },
    { name: "copy", ...copy.status },
    suspectsHealth(reconciler.suspects()),
    outcomesHealth(reconciler.unknownOutcomes(), new Date()),
    accessHealth(sources),
  ];
}

export function conditions({
  rows,
  session,
  reconciler,
  fence,
  lock,
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
  const unconfirmed = unconfirmedHostCount(rows.lvols());
  return [
    condition("DatabaseReachable", status.ok, status.reason, status.since),
    condition("TargetConnected", target.connected, target.reason, target.since),
    condition("LeaseHeld", fence.leaseHeld, leaseStatus.reason, leaseStatus.since),
    condition("LocalLockHeld", fence.lockHeld, lock.reason),
    condition("OnHold", fence.hold !== undefined, fence.hold ?? ""),
    condition("HostsUnconfirmed", unconfirmed > 0, unconfirmedText(unconfirmed)),
  ];
}

function unconfirmedText(hosts: number): string {
  if (hosts === 0) return "";
  return `${hosts} hosts of volumes may not connect before ConfirmHosts: their rows come from an older database`;
}

/** A change that killed the target will be tried again: hosts lose their connections then. */
function suspectsHealth(suspects: readonly Suspect[]): ComponentHealth {
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

function outcomesHealth(unknown: readonly UnknownOutcomeOf[], now: Date): ComponentHealth {
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
function accessHealth({ access, config: { unprotected } }: HealthSources): ComponentHealth {
  if (access !== undefined) return { name: "access", ...access.status };
  const ok = unprotected.length === 0;
  const reason = ok ? "" : `no TLS, and whoever connects is an operator: ${unprotected.join(", ")}`;
  return { name: "access", ok, reason, since: STARTED };
}

/** Since when a part is fine that was never otherwise. */
const STARTED = new Date();
