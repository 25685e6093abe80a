// A volume: its row (what is wanted, what was last recorded), what was seen of it on the target in
// this run, and the pure rules that derive its state from the two.
import type { Condition, LvolConditionType } from "./condition.ts";
import type { PendingOp } from "./pending-op.ts";

export type QosLimits = {
  readonly rwIops: bigint;
  readonly rwMibPerSecond: bigint;
  readonly readMibPerSecond: bigint;
  readonly writeMibPerSecond: bigint;
};

/** What ProvisionLvol asked, defaults resolved; a repeat is compared with this, not with today. */
export type CreationRequest = {
  readonly sizeBytes: bigint;
  readonly thin: boolean;
  /** Undefined: the agent picked. */
  readonly diskId: string | undefined;
  readonly sourceSnapshotId: string | undefined;
  /** Sorted, without duplicates. */
  readonly hosts: readonly string[];
  readonly allowAnyHost: boolean;
  readonly qos: QosLimits | undefined;
};

export type LvolRow = {
  readonly id: string;
  readonly nodeId: string;
  readonly diskId: string;
  readonly request: CreationRequest;
  // wanted
  readonly sizeBytes: bigint;
  /** What is set aside for it on the disk: the size in whole clusters. */
  readonly promisedBytes: bigint;
  readonly thin: boolean;
  readonly hosts: readonly string[];
  readonly allowAnyHost: boolean;
  readonly qos: QosLimits | undefined;
  readonly labels: Readonly<Record<string, string>>;
  readonly nqn: string;
  readonly generation: bigint;
  readonly deleteRequestedTime: Date | undefined;
  readonly deleteForced: boolean;
  readonly traceparent: string | undefined;
  // recorded
  readonly observedGeneration: bigint;
  /** Once seen never cleared: a volume that was there and is gone is never made again. */
  readonly lvolUuid: string | undefined;
  readonly lvsUuid: string | undefined;
  readonly observedSizeBytes: bigint | undefined;
  readonly exported: boolean;
  readonly pendingOp: PendingOp | undefined;
  /** Made from what lay on the disk: who may connect is not known, its export is left as it is. */
  readonly unconfirmed: boolean;
  readonly lastError: string | undefined;
  /** Set when only a new intent can help. */
  readonly failed: boolean;
  readonly attempt: number;
  readonly nextTryTime: Date | undefined;
  readonly revision: bigint;
  readonly createTime: Date;
  readonly updateTime: Date;
  /** A tombstone: nothing of it is left on the node, as far as was seen. */
  readonly deleteTime: Date | undefined;
};

/** What a loop records of a volume; absent fields stay as they are. */
export type LvolStatusPatch = Partial<
  Pick<
    LvolRow,
    | "observedGeneration"
    | "lvolUuid"
    | "lvsUuid"
    | "observedSizeBytes"
    | "exported"
    | "pendingOp"
    | "lastError"
    | "failed"
    | "attempt"
    | "nextTryTime"
    | "deleteTime"
  >
>;

/** The lvol as the target showed it in this run. */
export type ObservedLvol =
  | { readonly kind: "absent" }
  | {
      readonly kind: "present";
      readonly uuid: string;
      readonly lvsUuid: string;
      readonly sizeBytes: bigint;
      readonly thin: boolean;
      readonly allocatedClusters: bigint | undefined;
    };

export type ListenAddress = {
  readonly trtype: string;
  readonly adrfam: string;
  readonly traddr: string;
  readonly trsvcid: string;
};

export type ObservedNamespace = {
  readonly nsid: number;
  readonly bdevName: string;
  readonly uuid: string | undefined;
};

/** The subsystem as the target showed it in this run. */
export type ObservedSubsystem =
  | { readonly kind: "absent" }
  | {
      readonly kind: "present";
      readonly serialNumber: string;
      readonly allowAnyHost: boolean;
      readonly hosts: readonly string[];
      readonly listeners: readonly ListenAddress[];
      readonly namespaces: readonly ObservedNamespace[];
    };

/** Undefined parts are not known in this run of the target. */
export type ObservedVolume = {
  readonly lvol: ObservedLvol | undefined;
  readonly subsystem: ObservedSubsystem | undefined;
};

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
  readonly targetConnected: boolean;
  readonly diskReady: boolean;
  readonly diskReason: string;
  /** Where every volume of the node should listen. */
  readonly listenAddresses: readonly ListenAddress[];
};

/** Whether the lvol behind a row was there once and is now known to be gone. */
export function dataMissing(view: Pick<VolumeView, "row" | "observed">): boolean {
  return view.row.lvolUuid !== undefined && view.observed.lvol?.kind === "absent";
}

/** The one namespace that the export of this row should have, and its state. */
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

export function sameAddress(a: ListenAddress, b: ListenAddress): boolean {
  return (
    a.trtype.toUpperCase() === b.trtype.toUpperCase() &&
    a.adrfam.toUpperCase() === b.adrfam.toUpperCase() &&
    a.traddr === b.traddr &&
    a.trsvcid === b.trsvcid
  );
}

function lvolCreated(view: VolumeView): LvolCondition {
  const type = "LvolCreated";
  const { row, observed } = view;
  if (dataMissing(view)) {
    const message = `lvol ${row.lvolUuid} was there and is gone; it is not made again`;
    return { type, status: "FALSE", reason: "DataMissing", message };
  }
  if (observed.lvol?.kind === "present" && row.lvolUuid === undefined) {
    // Told only once it is written down: a volume that may hold data is never made a second time.
    return { type, status: "FALSE", reason: "NotRecorded", message: "made, and being recorded" };
  }
  if (observed.lvol?.kind === "present")
    return { type, status: "TRUE", reason: "Seen", message: "" };
  if (observed.lvol === undefined && row.lvolUuid !== undefined) {
    const message = "not yet seen in this run of the target";
    return { type, status: "UNKNOWN", reason: "NotSeenYet", message };
  }
  const message = row.lastError ?? "not made yet";
  return { type, status: "FALSE", reason: row.failed ? "Failed" : "NotCreated", message };
}

function sizeReached(view: VolumeView): LvolCondition {
  const type = "SizeReached";
  const { row, observed } = view;
  if (observed.lvol?.kind !== "present") {
    return { type, status: "UNKNOWN", reason: "LvolNotSeen", message: "" };
  }
  if (observed.lvol.sizeBytes >= row.promisedBytes) {
    return { type, status: "TRUE", reason: "Seen", message: "" };
  }
  const message = `is ${observed.lvol.sizeBytes} bytes, ${row.promisedBytes} are wanted`;
  return { type, status: "FALSE", reason: "TooSmall", message };
}

function exported(view: VolumeView): LvolCondition {
  const type = "Exported";
  if (view.row.unconfirmed) {
    const message =
      "rebuilt without its hosts; its export is left as it is until AllowHost is called";
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

/** The first thing that keeps the export from being exactly as wanted. */
function exportProblem(view: VolumeView): { reason: string; message: string } | undefined {
  const { row, observed, listenAddresses } = view;
  const lvolUuid = observed.lvol?.kind === "present" ? observed.lvol.uuid : row.lvolUuid;
  const namespace = namespaceState(row, observed.subsystem, lvolUuid);
  if (observed.subsystem === undefined) {
    return { reason: "NotSeenYet", message: "not yet seen in this run of the target" };
  }
  if (observed.subsystem.kind === "absent") {
    return { reason: "NOT_CREATED", message: "subsystem is not there" };
  }
  if (namespace === "conflict") {
    return { reason: "NamespaceConflict", message: "another namespace has nsid 1; left alone" };
  }
  if (namespace !== "attached") return { reason: "NoNamespace", message: "namespace is not there" };
  const { listeners, hosts, allowAnyHost } = observed.subsystem;
  const silent = listenAddresses.filter((want) => !listeners.some((is) => sameAddress(want, is)));
  if (silent.length > 0) {
    const where = silent.map((address) => `${address.traddr}:${address.trsvcid}`).join(", ");
    return { reason: "ListenerMissing", message: `not listening on ${where}` };
  }
  const missing = row.hosts.filter((host) => !hosts.includes(host));
  if (missing.length > 0) {
    return { reason: "HostMissing", message: `not yet let in: ${missing.join(", ")}` };
  }
  const extra = hosts.filter((host) => !row.hosts.includes(host));
  if (extra.length > 0 || allowAnyHost !== row.allowAnyHost) {
    return { reason: "HostsDiffer", message: "hosts let in that should no longer be" };
  }
  return undefined;
}

/** All conditions of a volume, in the order an operator would ask. */
export function lvolConditions(view: VolumeView): readonly LvolCondition[] {
  const connected = view.targetConnected;
  return [
    {
      type: "TargetConnected",
      status: connected ? "TRUE" : "FALSE",
      reason: connected ? "Connected" : "TargetDown",
      message: connected ? "" : "the SPDK target does not answer",
    },
    {
      type: "DiskReady",
      status: view.diskReady ? "TRUE" : "FALSE",
      reason: view.diskReady ? "Up" : "DiskNotUp",
      message: view.diskReady ? "" : view.diskReason,
    },
    lvolCreated(view),
    sizeReached(view),
    exported(view),
  ];
}

/** One word for where a volume stands (API.md, Volume states). */
export function lvolState(view: VolumeView): LvolState {
  const { row } = view;
  if (row.deleteTime !== undefined) return "DELETED";
  if (row.deleteRequestedTime !== undefined) return "DELETING";
  if (dataMissing(view)) return "DATA_MISSING";
  if (row.failed) return "FAILED";
  const conditions = lvolConditions(view);
  if (conditions.every((condition) => condition.status === "TRUE")) return "UP";
  if (row.lvolUuid === undefined || !row.exported) return "CREATING";
  const onlySize = conditions.every(
    (condition) => condition.status === "TRUE" || condition.type === "SizeReached",
  );
  return onlySize ? "RESIZING" : "DEGRADED";
}
