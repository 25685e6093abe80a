// The state of a volume: derived from its row and from what was observed, never stored.
import { addressText } from "./address.ts";
import type { Condition, LvolConditionType, LvolWarning } from "./condition.ts";
import { allowHostKey, listenKey, QOS_KEY, RESIZE_KEY } from "./export-parts.ts";
import { wasRefused, type StepFailures } from "./failure.ts";
import {
  sameAddress,
  sameLimits,
  type ListenAddress,
  type LvolRow,
  type ObservedSubsystem,
  type ObservedVolume,
} from "./lvol.ts";
import { spaceLow, type DiskSpace } from "./space.ts";
import { limitsText, realLimits } from "./qos.ts";
import { takesClusters, type Hold } from "./zeroing-hold.ts";
import { isOfDisk, waitConditions, waitText, type Wait } from "./wait.ts";
import { outcomeConditions, type UnknownOutcome } from "./unknown-outcome.ts";
import { TARGET_AWAY } from "./target-process.ts";

export const LVOL_STATES = [
  "CREATING",
  "UP",
  "RESIZING",
  "DEGRADED",
  "DATA_MISSING",
  "DELETING",
  "DELETED",
  "FAILED",
] as const;

export type LvolState = (typeof LVOL_STATES)[number];

export type LvolCondition = Condition<LvolConditionType>;

/** Everything that a volume's state is derived from. */
export type VolumeView = {
  readonly row: LvolRow;
  readonly observed: ObservedVolume;
  /** Failures of the volume's steps that are not overcome yet, by `LOOP/STEP PART`. */
  readonly failures: StepFailures;
  /** The oldest change whose outcome is not known, of whatever; undefined: there is none. */
  readonly outcomeUnknown: UnknownOutcome | undefined;
  /** As outcomeUnknown, of its subsystem: what is read of that proves nothing. */
  readonly subsystemUnknown: UnknownOutcome | undefined;
  readonly targetConnected: boolean;
  readonly diskReady: boolean;
  readonly diskReason: string;
  /** Addresses of the listeners that every subsystem of the node should have. */
  readonly listenAddresses: readonly ListenAddress[];
  /** Of its disk; undefined: not known. */
  readonly space: DiskSpace | undefined;
  /** Why its disk is about to fail; undefined: it is not. */
  readonly diskFailure?: string | undefined;
  /** It is not made reachable before the free space of its disk is zeroed; undefined: it may be. */
  readonly held: Hold | undefined;
  /** Its hosts can reach it, and its writes take clusters that may hold old bytes. */
  readonly exposed: boolean;
  /** What keeps its loops from the next step although nothing failed; undefined: nothing. */
  readonly wait: Wait | undefined;
};

export type PresentSubsystem = Extract<ObservedSubsystem, { kind: "present" }>;

/** Whether the row's lvol was recorded before and is now observed to be absent. */
export function dataMissing(view: Pick<VolumeView, "row" | "observed">): boolean {
  return view.row.lvolUuid !== undefined && view.observed.lvol?.kind === "absent";
}

/**
 * The row comes from an older database, and the lvol that may have been made since is observed to be
 * absent. It is not created: an empty lvol must not take the place of one that was lost.
 */
export function maybeLost({ row, observed }: Pick<VolumeView, "row" | "observed">): boolean {
  return row.maybeMade && row.lvolUuid === undefined && observed.lvol?.kind === "absent";
}

/** State of namespace 1, the only one that the export of this row should have. */
export function namespaceState(
  row: Pick<LvolRow, "id" | "lvolUuid">,
  subsystem: ObservedSubsystem | undefined,
  lvolUuid: string | undefined,
): "unknown" | "absent" | "attached" | "conflict" {
  if (subsystem === undefined) return "unknown";
  if (subsystem.kind === "absent") return "absent";
  const found = subsystem.namespaces.find((namespace) => namespace.nsid === 1);
  if (found === undefined) return "absent";
  if (lvolUuid === undefined) return row.lvolUuid === undefined ? "conflict" : "unknown";
  return found.bdevName === lvolUuid && found.uuid === row.id ? "attached" : "conflict";
}

function lvolCreated(view: VolumeView): LvolCondition {
  const type = "LvolCreated";
  const { row, observed } = view;
  if (dataMissing(view) && row.deleteRequestedTime !== undefined) {
    const message = `lvol ${row.lvolUuid} is gone: the volume was deleted`;
    return { type, status: "FALSE", reason: "Deleted", message };
  }
  if (dataMissing(view)) {
    const message = `lvol ${row.lvolUuid} is lost; it is not created again`;
    return { type, status: "FALSE", reason: "DataMissing", message };
  }
  if (maybeLost(view)) {
    const message =
      "the row comes from an older database and its lvol may have been made and lost since; " +
      "no empty lvol is created: delete the volume";
    return { type, status: "FALSE", reason: "OlderDatabase", message };
  }
  if (observed.lvol?.kind === "present" && row.cloning) {
    const message = `it does not have the data of snapshot ${row.request.sourceSnapshotId} yet`;
    return waited(view, { type, status: "FALSE", reason: "Cloning", message });
  }
  if (observed.lvol?.kind === "present" && row.lvolUuid === undefined) {
    // TRUE only after the uuid is committed: a row without it would allow a second, empty lvol.
    return {
      type,
      status: "FALSE",
      reason: "NotRecorded",
      message: "created, but its uuid is not recorded yet",
    };
  }
  if (observed.lvol?.kind === "present")
    return { type, status: "TRUE", reason: "Seen", message: "" };
  if (observed.lvol === undefined && row.lvolUuid !== undefined) {
    const message = "not observed yet since the SPDK target started";
    return { type, status: "UNKNOWN", reason: "NotSeenYet", message };
  }
  const message = row.lastError ?? "not created yet";
  const reason = row.failed ? "Failed" : "NotCreated";
  return waited(view, { type, status: "FALSE", reason, message });
}

/** As the wait says, if there is one: errors and plans of before are of no account meanwhile. */
function waited({ wait }: VolumeView, condition: LvolCondition): LvolCondition {
  if (wait === undefined) return condition;
  return { ...condition, reason: wait.reason, message: waitText(wait) };
}

/** SPDK's error text when a thick lvol does not fit (docs/spdk-contract.md#lvols). */
export const NO_SPACE = "No space left on device";

function sizeReached(view: VolumeView): LvolCondition {
  const type = "SizeReached";
  const { row, observed, failures } = view;
  if (observed.lvol?.kind !== "present") {
    return { type, status: "UNKNOWN", reason: "LvolNotSeen", message: "" };
  }
  const { sizeBytes } = observed.lvol;
  const message = `size is ${sizeBytes} bytes, wanted are ${row.promisedBytes} bytes`;
  if (sizeBytes > row.promisedBytes) return { type, status: "TRUE", reason: "Larger", message };
  if (sizeBytes === row.promisedBytes) {
    return { type, status: "TRUE", reason: "Seen", message: "" };
  }
  if (view.wait !== undefined) {
    const { reason } = view.wait;
    return { type, status: "FALSE", reason, message: `${message}: ${waitText(view.wait)}` };
  }
  const failure = failures[RESIZE_KEY];
  if (failure === undefined) return { type, status: "FALSE", reason: "TooSmall", message };
  const reason = failure.message.includes(NO_SPACE) ? "NoSpace" : "GrowFailed";
  return { type, status: "FALSE", reason, message: `${message}: ${failure.message}` };
}

function exported(view: VolumeView): LvolCondition {
  const type = "Exported";
  if (view.row.unconfirmed) {
    const origin = view.row.adopted ? "adopted" : "rebuilt";
    const message = `${origin} with unknown hosts; the export is not changed until AllowHost is called`;
    return { type, status: "FALSE", reason: "UNCONFIRMED", message };
  }
  const problem = exportProblem(view);
  if (problem !== undefined) return { type, status: "FALSE", ...problem };
  if (view.row.hosts.length === 0 && !view.row.allowAnyHost) {
    const message = "exported, but no host may connect: call AllowHost";
    return { type, status: "TRUE", reason: "NO_HOSTS_ALLOWED", message };
  }
  return { type, status: "TRUE", reason: "Seen", message: "" };
}

/** The first difference between the observed export and the desired one. */
function exportProblem(view: VolumeView): { reason: string; message: string } | undefined {
  const { row, observed, listenAddresses } = view;
  const lvolUuid = observed.lvol?.kind === "present" ? observed.lvol.uuid : row.lvolUuid;
  const namespace = namespaceState(row, observed.subsystem, lvolUuid);
  if (observed.subsystem === undefined) {
    return { reason: "NotSeenYet", message: "not observed yet since the SPDK target started" };
  }
  if (observed.subsystem.kind === "absent") {
    return { reason: "NOT_CREATED", message: "subsystem does not exist" };
  }
  if (namespace === "conflict") {
    return {
      reason: "NamespaceConflict",
      message: "another namespace has nsid 1; it is not changed",
    };
  }
  if (namespace !== "attached")
    return { reason: "NoNamespace", message: "namespace does not exist" };
  const { listeners } = observed.subsystem;
  if (listenAddresses.some((address) => listeners.some((is) => sameAddress(address, is)))) {
    return undefined;
  }
  if (view.wait !== undefined && view.held !== undefined) {
    return { reason: view.wait.reason, message: waitText(view.wait) };
  }
  const where = listenAddresses.map(addressText).join(", ");
  return { reason: "NoListener", message: `not listening on ${where}` };
}

/** The target lets the host in, as observed and with nothing to come, or has refused to. */
export function hostIsLetIn(view: VolumeView, host: string): boolean {
  const { subsystem } = view.observed;
  if (subsystem?.kind !== "present" || view.subsystemUnknown !== undefined) return false;
  const letIn = subsystem.allowAnyHost || subsystem.hosts.includes(host);
  return letIn || wasRefused(view.failures, allowHostKey(host));
}

/**
 * The host can no longer reach the volume: a read that began after every change of the subsystem was
 * answered shows neither the host nor a connection of it.
 */
export function hostIsGone({ observed, subsystemUnknown }: VolumeView, host: string): boolean {
  const { subsystem, subsystemStale, connected } = observed;
  if (subsystem === undefined || subsystemStale || subsystemUnknown !== undefined) return false;
  if (subsystem.kind === "absent") return true;
  const letIn = subsystem.allowAnyHost || subsystem.hosts.includes(host);
  return !letIn && connected?.includes(host) !== true;
}

/** Whether its disk has the volume, or can take it: one that is only to grow is served meanwhile. */
function diskReady({ diskReady, diskReason, wait, row }: VolumeView): LvolCondition {
  const type = "DiskReady";
  if (!diskReady) return { type, status: "FALSE", reason: "DiskNotUp", message: diskReason };
  const isToBeMade = row.lvolUuid === undefined || row.cloning;
  if (wait !== undefined && isOfDisk(wait) && isToBeMade) {
    return { type, status: "FALSE", reason: wait.reason, message: waitText(wait) };
  }
  return { type, status: "TRUE", reason: "Up", message: "" };
}

/** What a volume needs to be UP, in the order in which an operator checks it. */
function needs(view: VolumeView): readonly LvolCondition[] {
  const connected = view.targetConnected;
  return [
    {
      type: "TargetConnected",
      status: connected ? "TRUE" : "FALSE",
      reason: connected ? "Connected" : "TargetDown",
      message: connected ? "" : TARGET_AWAY,
    },
    diskReady(view),
    lvolCreated(view),
    sizeReached(view),
    exported(view),
  ];
}

/** What its host may see while the disk is not zeroed. */
export const OLD_BYTES =
  "until the free space of its disk is zeroed, a host that writes a part of a new cluster may read " +
  "bytes of deleted volumes in the rest of it";

/** What is wrong with single parts of a volume; empty where nothing is. */
function warnings(view: VolumeView): readonly LvolCondition[] {
  const { row, observed, listenAddresses, failures, outcomeUnknown } = view;
  const found: LvolCondition[] = [];
  const warn = (type: LvolWarning, reason: string, message: string) =>
    found.push({ type, status: "TRUE", reason, message });
  if (observed.subsystem?.kind === "present" && row.deleteRequestedTime === undefined) {
    const { listeners } = observed.subsystem;
    const silent = listenAddresses.flatMap((address) => {
      const failure = failures[listenKey(address)];
      const isUp = listeners.some((listener) => sameAddress(address, listener));
      return isUp || failure === undefined ? [] : [`${addressText(address)}: ${failure.message}`];
    });
    if (silent.length > 0) warn("ListenerMissing", "Refused", silent.join("; "));
  }
  const admitted = observed.subsystem?.kind === "present" ? observed.subsystem.hosts : [];
  const refused = row.hosts.flatMap((host) => {
    const failure = failures[allowHostKey(host)];
    return failure === undefined || admitted.includes(host) ? [] : [`${host}: ${failure.message}`];
  });
  if (refused.length > 0) warn("HostRefused", "Refused", refused.join("; "));
  const limits = observed.lvol?.kind === "present" ? observed.lvol.limits : undefined;
  const unset = failures[QOS_KEY];
  if (limits !== undefined && unset !== undefined && !sameLimits(limits, realLimits(row.qos))) {
    const message = `limited to ${limitsText(limits)}: ${unset.message}`;
    warn("QosRefused", "Refused", message);
  }
  if (row.unconfirmedHosts.length > 0) {
    const message = `${row.unconfirmedHosts.join(", ")} may not connect before ConfirmHosts is called`;
    warn("HostsUnconfirmed", "OlderDatabase", message);
  }
  if (view.exposed) warn("OldBytesExposed", "NotZeroed", OLD_BYTES);
  const low = needsClusters(view) ? spaceLow(view.space) : undefined;
  if (low !== undefined) warn("SpaceLow", low.reason, `of disk ${row.diskId}, ${low.message}`);
  return [
    ...found,
    ...diskFailing(view),
    ...waitConditions(view.wait),
    ...outcomeConditions(outcomeUnknown),
  ];
}

/** Told of what lies on the disk; nothing is ever done to it because of that. */
export function diskFailing({
  row: { diskId },
  diskFailure,
}: {
  readonly row: { readonly diskId: string };
  readonly diskFailure?: string | undefined;
}): readonly Condition<"DiskFailing">[] {
  if (diskFailure === undefined) return [];
  const message = `copy its data elsewhere: disk ${diskId} may fail soon (${diskFailure})`;
  return [{ type: "DiskFailing", status: "TRUE", reason: "DiskFailed", message }];
}

/** Whether hosts' writes may still take clusters of the disk: a thick volume has all of its own. */
function needsClusters({ row, observed: { lvol }, space }: VolumeView): boolean {
  return row.deleteRequestedTime === undefined && takesClusters(lvol, space?.clusterBytes);
}

/** All conditions of a volume: what it needs to be UP, then what is wrong with single parts. */
export function lvolConditions(view: VolumeView): readonly LvolCondition[] {
  return [...needs(view), ...warnings(view)];
}

/** The state of a volume. */
export function lvolState(view: VolumeView): LvolState {
  const { row } = view;
  if (row.deleteTime !== undefined) return "DELETED";
  if (row.deleteRequestedTime !== undefined) return "DELETING";
  if (dataMissing(view)) return "DATA_MISSING";
  if (row.failed || maybeLost(view)) return "FAILED";
  const unmet = needs(view).filter(({ status }) => status !== "TRUE");
  if (unmet.length === 0) return "UP";
  // Until it was UP once.
  const isNew = row.lvolUuid === undefined || row.observedGeneration === 0n;
  if (isNew || !row.exported) return "CREATING";
  return unmet.every(({ type }) => type === "SizeReached") ? "RESIZING" : "DEGRADED";
}
