// A volume: its row (desired state and last recorded status), and what was observed of it in the
// present incarnation of the target.
import type { ColumnOwner, OwnedBy } from "./column-owner.ts";
import { EXPORT_MODEL, exportSerial } from "./identity.ts";
import type { StepFailures } from "./failure.ts";
import type { PendingOp } from "./pending-op.ts";

export type QosLimits = {
  readonly rwIops: bigint;
  readonly rwMibPerSecond: bigint;
  readonly readMibPerSecond: bigint;
  readonly writeMibPerSecond: bigint;
};

export const NO_LIMITS: QosLimits = {
  rwIops: 0n,
  rwMibPerSecond: 0n,
  readMibPerSecond: 0n,
  writeMibPerSecond: 0n,
};

export function sameLimits(a: QosLimits, b: QosLimits): boolean {
  return (
    a.rwIops === b.rwIops &&
    a.rwMibPerSecond === b.rwMibPerSecond &&
    a.readMibPerSecond === b.readMibPerSecond &&
    a.writeMibPerSecond === b.writeMibPerSecond
  );
}

/**
 * The request of ProvisionLvol, defaults resolved. A repeated call is compared with this, not with
 * the present spec of the volume.
 */
export type CreationRequest = {
  readonly sizeBytes: bigint;
  readonly thin: boolean;
  /** Undefined: the agent chose the disk. */
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
  /** The volume that its clone family began with; itself, unless it is a clone. */
  readonly familyRoot: string;
  readonly request: CreationRequest;
  // desired state
  readonly sizeBytes: bigint;
  /** Bytes promised to the volume on its disk: the size rounded up to whole clusters. */
  readonly promisedBytes: bigint;
  readonly thin: boolean;
  readonly hosts: readonly string[];
  readonly allowAnyHost: boolean;
  readonly qos: QosLimits | undefined;
  readonly labels: Readonly<Record<string, string>>;
  readonly nqn: string;
  /** Shown to hosts, who make /dev/disk/by-id of it; kept for the life of the volume. */
  readonly serialNumber: string;
  readonly modelNumber: string;
  readonly generation: bigint;
  readonly deleteRequestedTime: Date | undefined;
  readonly deleteForced: boolean;
  /** The reason that the caller gave for a forced deletion. */
  readonly deleteReason: string | undefined;
  /** Who asked for the present intent. */
  readonly actor: string | undefined;
  readonly traceparent: string | undefined;
  // recorded status
  readonly observedGeneration: bigint;
  /** Never cleared once it is set: an lvol that existed and is lost is never created again. */
  readonly lvolUuid: string | undefined;
  readonly lvsUuid: string | undefined;
  readonly observedSizeBytes: bigint | undefined;
  /** The snapshot that its lvol was last observed to be a clone of. */
  readonly parentId: string | undefined;
  /** A clone that does not have the data of its snapshot yet: no host may see it. */
  readonly cloning: boolean;
  readonly exported: boolean;
  readonly pendingOp: PendingOp | undefined;
  /** Rebuilt from an lvol on the disk: the allowed hosts are unknown, the export is not changed. */
  readonly unconfirmed: boolean;
  /**
   * Of `hosts`: those that may not connect before they are confirmed, as the row comes from a
   * database that is older than what the node remembers. "*" stands for allowAnyHost.
   */
  readonly unconfirmedHosts: readonly string[];
  /**
   * The row comes from such a database, and no lvol was observed when it was written: one may have been
   * made and lost since, so no empty lvol is created for it.
   */
  readonly maybeMade: boolean;
  /** Hosts that were connected in connectedIncarnation, as last recorded; undefined: unknown. */
  readonly connectedHosts: readonly string[] | undefined;
  readonly connectedIncarnation: string | undefined;
  /** Of a volume that is being deleted: its export was observed to be gone. */
  readonly unexportedTime: Date | undefined;
  /**
   * An lvol that the agent did not make for this volume had its name: nothing of that name on the
   * target is the volume's, unless lvolUuid says so.
   */
  readonly nameTaken: boolean;
  /**
   * Its lvol was an orphan. Nobody knows how it was made: the delete of it may leave its bytes in free
   * clusters, and its name may not be the id yet.
   */
  readonly adopted: boolean;
  readonly failures: StepFailures;
  readonly lastError: string | undefined;
  /** The last error is permanent: only a new intent can help. */
  readonly failed: boolean;
  readonly attempt: number;
  readonly nextTryTime: Date | undefined;
  readonly revision: bigint;
  readonly createTime: Date;
  readonly updateTime: Date;
  /** Set on a tombstone: the volume was observed to be gone from the node. */
  readonly deleteTime: Date | undefined;
};

/** Which part of the agent writes each column. */
export const LVOL_COLUMNS = {
  id: "fixed",
  nodeId: "fixed",
  diskId: "fixed",
  familyRoot: "fixed",
  request: "fixed",
  sizeBytes: "intent",
  promisedBytes: "intent",
  thin: "fixed",
  hosts: "intent",
  allowAnyHost: "intent",
  qos: "intent",
  labels: "intent",
  nqn: "fixed",
  serialNumber: "fixed",
  modelNumber: "fixed",
  generation: "intent",
  deleteRequestedTime: "intent",
  deleteForced: "intent",
  deleteReason: "intent",
  actor: "intent",
  traceparent: "intent",
  observedGeneration: "status",
  lvolUuid: "status",
  lvsUuid: "status",
  observedSizeBytes: "status",
  parentId: "status",
  cloning: "status",
  exported: "status",
  pendingOp: "both",
  unconfirmed: "intent",
  unconfirmedHosts: "intent",
  maybeMade: "intent",
  connectedHosts: "status",
  connectedIncarnation: "status",
  unexportedTime: "both",
  nameTaken: "status",
  adopted: "fixed",
  failures: "both",
  lastError: "status",
  failed: "both",
  attempt: "both",
  nextTryTime: "both",
  revision: "writer",
  createTime: "fixed",
  updateTime: "writer",
  deleteTime: "status",
} as const satisfies Readonly<Record<keyof LvolRow, ColumnOwner>>;

/** Status of a volume that a loop records; absent fields stay unchanged. */
export type LvolStatusPatch = Partial<
  Pick<LvolRow, OwnedBy<typeof LVOL_COLUMNS, "status" | "both">>
>;

/** What differs between new rows; the other fields have the same value in all of them. */
export type NewLvol = Pick<
  LvolRow,
  "id" | "nodeId" | "diskId" | "request" | "promisedBytes" | "labels" | "nqn"
> &
  Partial<Pick<LvolRow, "familyRoot">> &
  Pick<LvolRow, "actor" | "traceparent" | "revision"> & {
    readonly now: Date;
  };

/** The row of a volume that was just admitted: nothing of it was created or observed yet. */
export function newLvolRow({ now, ...given }: NewLvol): LvolRow {
  const { sizeBytes, thin, hosts, allowAnyHost, qos, sourceSnapshotId } = given.request;
  return {
    familyRoot: given.id,
    ...given,
    sizeBytes,
    thin,
    hosts,
    allowAnyHost,
    qos,
    serialNumber: exportSerial(given.id),
    modelNumber: EXPORT_MODEL,
    generation: 1n,
    deleteRequestedTime: undefined,
    deleteForced: false,
    deleteReason: undefined,
    observedGeneration: 0n,
    lvolUuid: undefined,
    lvsUuid: undefined,
    observedSizeBytes: undefined,
    parentId: undefined,
    cloning: sourceSnapshotId !== undefined,
    exported: false,
    pendingOp: undefined,
    unconfirmed: false,
    unconfirmedHosts: [],
    maybeMade: false,
    connectedHosts: undefined,
    connectedIncarnation: undefined,
    unexportedTime: undefined,
    nameTaken: false,
    adopted: false,
    failures: {},
    lastError: undefined,
    failed: false,
    attempt: 0,
    nextTryTime: undefined,
    createTime: now,
    updateTime: now,
    deleteTime: undefined,
  };
}

/** The lvol as observed in this incarnation of the target. */
export type ObservedLvol =
  | { readonly kind: "absent" }
  | {
      readonly kind: "present";
      readonly uuid: string;
      readonly lvsUuid: string;
      readonly sizeBytes: bigint;
      readonly thin: boolean;
      readonly allocatedClusters: bigint | undefined;
      /** Name of the snapshot that it is a clone of. */
      readonly parent: string | undefined;
      /** Undefined: not read. */
      readonly name?: string | undefined;
      /** The limits that are in force, as the target has rounded them. */
      readonly limits: QosLimits;
    };

export type PresentLvol = Extract<ObservedLvol, { kind: "present" }>;

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

/** The subsystem as observed in this incarnation of the target. */
export type ObservedSubsystem =
  | { readonly kind: "absent" }
  | {
      readonly kind: "present";
      readonly serialNumber: string;
      /** Logical blocks that one range of a host's discard may have; undefined before 26.05. */
      readonly dmrsl: number | undefined;
      readonly allowAnyHost: boolean;
      readonly hosts: readonly string[];
      readonly listeners: readonly ListenAddress[];
      readonly namespaces: readonly ObservedNamespace[];
    };

/** Undefined parts were not observed yet in this incarnation of the target. */
export type ObservedVolume = {
  readonly lvol: ObservedLvol | undefined;
  /** When `lvol` was read from the target. */
  readonly lvolTime: Date | undefined;
  readonly subsystem: ObservedSubsystem | undefined;
  /**
   * What was observed of the subsystem may be out of date: a host was revoked since, or the outcome of
   * a change is unknown. It is read again before the intent counts as carried out.
   */
  readonly subsystemStale: boolean;
  /** Monotonic milliseconds since when a listener has been observed; undefined: there is none. */
  readonly listeningSinceMs: number | undefined;
  /** This agent made the export in this incarnation, and it was never reachable before. */
  readonly isNewExport: boolean;
  /** This agent ended the export in this incarnation, and no host was connected or it was forced. */
  readonly exportEnded: boolean;
  /** NQNs of the hosts with a connection, as last asked; undefined: not asked yet. */
  readonly connected: readonly string[] | undefined;
};

/** The hosts that may connect: those of the row without the unconfirmed ones. */
export function confirmedHosts({
  hosts,
  allowAnyHost,
  unconfirmedHosts,
}: Pick<LvolRow, "hosts" | "allowAnyHost" | "unconfirmedHosts">): {
  readonly hosts: readonly string[];
  readonly allowAnyHost: boolean;
} {
  if (unconfirmedHosts.length === 0) return { hosts, allowAnyHost };
  return {
    hosts: hosts.filter((host) => !unconfirmedHosts.includes(host)),
    allowAnyHost: allowAnyHost && !unconfirmedHosts.includes(ANY_HOST),
  };
}

/** Stands for allowAnyHost in unconfirmedHosts. */
export const ANY_HOST = "*";

/** Everybody whom the row lets in; "*" stands for allowAnyHost. */
export function everyHost({
  hosts,
  allowAnyHost,
}: Pick<LvolRow, "hosts" | "allowAnyHost">): readonly string[] {
  return allowAnyHost ? [...hosts, ANY_HOST] : hosts;
}

/** Number of hosts of volumes that exist which may not connect before they are confirmed. */
export function unconfirmedHostCount(rows: Iterable<LvolRow>): number {
  let count = 0;
  for (const row of rows) {
    if (row.deleteTime === undefined) count += row.unconfirmedHosts.length;
  }
  return count;
}

export function sameAddress(a: ListenAddress, b: ListenAddress): boolean {
  return (
    a.trtype.toUpperCase() === b.trtype.toUpperCase() &&
    a.adrfam.toUpperCase() === b.adrfam.toUpperCase() &&
    a.traddr === b.traddr &&
    a.trsvcid === b.trsvcid
  );
}
