// A disk: its row, what was observed of it, and the pure rules that derive its state from the two.
import type { ColumnOwner, OwnedBy } from "./column-owner.ts";
import { fingerprint, type Evidence } from "./evidence.ts";
import type { StepFailures } from "./failure.ts";
import type { RecordedHealth } from "./disk-health.ts";
import { diskId } from "./identity.ts";
import type { UnknownOutcome } from "./unknown-outcome.ts";
import type { PendingOp } from "./pending-op.ts";
import type { SeenHealth } from "./seen-health.ts";
import type { DiskSpace, RecordedSpaceLevel } from "./space.ts";
import type { Wipe } from "./wipe.ts";

export const DISK_STATES = [
  "DISCOVERED",
  "CLAIMING",
  "UP",
  "IN_USE",
  "FOREIGN",
  "CONFLICT",
  "FAILED",
  "MISSING",
  "RELEASING",
  "RELEASED",
] as const;

export type DiskState = (typeof DISK_STATES)[number];

/**
 * - take: attached, with a store of ours, once it is admitted.
 * - inspect: attached, so that a store of somebody else can be read; nothing is made or deleted on it.
 * - release: back at its kernel driver, with what is on it.
 */
export const DISK_WISHES = ["take", "inspect", "release"] as const;

export type FreeSpace = "ZEROED" | "UNKNOWN";

export type ZeroingProgress = {
  readonly zeroedBytes: bigint;
  readonly totalBytes: bigint;
  readonly startTime: Date;
};

export type DiskRow = RecordedHealth & {
  readonly id: string;
  readonly nodeId: string;
  readonly serial: string;
  readonly model: string;
  readonly nsid: number;
  /** 32 and 16 hexadecimal digits; undefined: not read yet, or the drive shows none. */
  readonly nguid: string | undefined;
  readonly eui64: string | undefined;
  // desired state
  readonly admitted: boolean;
  readonly admittedSerial: string | undefined;
  /** Fingerprint of what was seen when it was admitted; undefined: nobody could look, or nothing. */
  readonly admittedEvidence: string | undefined;
  /** When and why the admission ended by itself; undefined: it did not. */
  readonly admissionEnded: string | undefined;
  readonly cordoned: boolean;
  readonly wanted: (typeof DISK_WISHES)[number];
  /** The lvstore of somebody else that a call has made one of this node; undefined: none. */
  readonly adoptedStore: string | undefined;
  /** When zeroing of the free clusters was requested; undefined once they are zeroed. */
  readonly zeroRequestedTime: Date | undefined;
  /** What is to be destroyed; undefined: nothing, or it is done. */
  readonly wipe: Wipe | undefined;
  /** When and why a wipe ended without the disk being wiped; undefined: none did. */
  readonly wipeEnded: string | undefined;
  /** An operator asserts that discarded blocks read as zeros. */
  readonly discardZeroes: boolean;
  /** Who asked for the present intent. */
  readonly actor: string | undefined;
  readonly generation: bigint;
  readonly traceparent: string | undefined;
  // recorded status
  readonly observedGeneration: bigint;
  readonly state: DiskState;
  readonly stateReason: string;
  readonly transport: "PCIe" | "TCP" | "RDMA";
  readonly address: string;
  readonly kernelName: string | undefined;
  readonly driver: string | undefined;
  readonly controllerName: string | undefined;
  readonly lvsName: string | undefined;
  /** Set once our lvstore was created or imported; a disk with it is never formatted before it is wiped. */
  readonly lvsUuid: string | undefined;
  readonly freeSpace: FreeSpace;
  readonly pendingOp: PendingOp | undefined;
  /** How far the zeroing of free space has come; undefined: it is not under way. */
  readonly zeroing: ZeroingProgress | undefined;
  /** Bytes per second, as last measured on this disk; undefined: never. */
  readonly zeroingRate: bigint | undefined;
  /**
   * The incarnation of the target in which volumes of the disk had snapshots: if it has ended, the copy of a
   * cluster may have been cut off. Undefined: none had.
   */
  readonly copyingRun: string | undefined;
  readonly clusterBytes: bigint | undefined;
  readonly totalClusters: bigint | undefined;
  /** As last recorded: what was observed since may differ by a few (isWorthRecording). */
  readonly freeClusters: bigint | undefined;
  readonly spaceLevel: RecordedSpaceLevel;
  /** When the disk was last looked at, as last recorded; undefined: never. */
  readonly healthTime: Date | undefined;
  readonly sizeBytes: bigint;
  readonly blockSize: number;
  readonly evidence: readonly Evidence[];
  readonly evidenceFingerprint: string;
  readonly failures: StepFailures;
  readonly lastError: string | undefined;
  readonly attempt: number;
  readonly nextTryTime: Date | undefined;
  readonly lastSeenTime: Date;
  // sums over the volumes of the disk, updated in the transaction that changes these volumes
  readonly promisedBytes: bigint;
  readonly lvolCount: number;
  readonly snapshotCount: number;
  readonly revision: bigint;
  readonly createTime: Date;
  readonly updateTime: Date;
};

/** It is to be attached so that its store can be read; once it was, that is over. */
export function isInspecting({
  wanted,
  admitted,
  generation,
  observedGeneration,
}: Pick<DiskRow, "wanted" | "admitted" | "generation" | "observedGeneration">): boolean {
  return wanted === "inspect" && admitted && observedGeneration !== generation;
}

/** Which part of the agent writes each column. */
export const DISK_COLUMNS = {
  id: "fixed",
  nodeId: "fixed",
  serial: "fixed",
  model: "fixed",
  nsid: "fixed",
  nguid: "status",
  eui64: "status",
  admitted: "intent",
  admittedSerial: "intent",
  admittedEvidence: "intent",
  admissionEnded: "intent",
  cordoned: "intent",
  wanted: "intent",
  adoptedStore: "both",
  zeroRequestedTime: "both",
  wipe: "both",
  wipeEnded: "both",
  discardZeroes: "intent",
  actor: "intent",
  generation: "intent",
  traceparent: "intent",
  observedGeneration: "status",
  state: "status",
  stateReason: "status",
  transport: "status",
  address: "status",
  kernelName: "status",
  driver: "status",
  controllerName: "status",
  lvsName: "status",
  lvsUuid: "status",
  freeSpace: "status",
  pendingOp: "status",
  zeroing: "status",
  zeroingRate: "status",
  copyingRun: "status",
  clusterBytes: "status",
  totalClusters: "status",
  freeClusters: "status",
  spaceLevel: "status",
  health: "status",
  healthReasons: "status",
  healthTime: "status",
  healthSample: "status",
  sizeBytes: "status",
  blockSize: "status",
  evidence: "status",
  evidenceFingerprint: "status",
  failures: "both",
  lastError: "status",
  attempt: "both",
  nextTryTime: "both",
  lastSeenTime: "status",
  promisedBytes: "intent",
  lvolCount: "intent",
  snapshotCount: "intent",
  revision: "writer",
  createTime: "fixed",
  updateTime: "writer",
} as const satisfies Readonly<Record<keyof DiskRow, ColumnOwner>>;

/** Status of a disk that a loop records; absent fields stay unchanged. */
export type DiskStatusPatch = Partial<
  Pick<DiskRow, OwnedBy<typeof DISK_COLUMNS, "status" | "both">>
>;

/** Total bytes that may be promised to volumes of the disk, over-commit included. */
export function promisableBytes(
  disk: Pick<DiskRow, "totalClusters" | "clusterBytes">,
  overcommit: number,
): bigint {
  const total = (disk.totalClusters ?? 0n) * (disk.clusterBytes ?? 0n);
  // The factor is scaled to an integer, with four decimal places: the product is exact in bigint.
  return (total * BigInt(Math.round(overcommit * 10_000))) / 10_000n;
}

/** Whether the disk can be used: controller attached, our lvstore loaded in this incarnation. */
export type DiskReadiness = {
  readonly ready: boolean;
  /** Why the disk is not ready, for people; empty if it is. */
  readonly reason: string;
  /** It was released and has left the machine. */
  readonly gone?: boolean;
  /** Loaded from it on the target, whosever it is; undefined: none is. */
  readonly loadedStore?: LoadedStore | undefined;
  /** A change of the disk whose outcome is not known; undefined: there is none. */
  readonly outcomeUnknown?: UnknownOutcome | undefined;
  /** Undefined: no lvstore of it is known. */
  readonly space: DiskSpace | undefined;
  /** Hosts may return clusters to the store, by discards, with what stands in them. */
  readonly discardsFree?: boolean;
  /** As this agent has last seen it; undefined: as the row says. */
  readonly health?: SeenHealth | undefined;
  /** The agent zeroes free space without being asked. */
  readonly zeroesByItself?: boolean;
  /** Volumes that take clusters which may hold old bytes: reachable for hosts, and held back. */
  readonly exposure?: Exposure;
  /** Why its identity is not certain; undefined: it is. */
  readonly conflict?: string | undefined;
  /** The row is that of the local copy, which has only what restoring needs. */
  readonly copied?: boolean;
  /** Whether the LED of its slot is on; undefined: none is known. */
  readonly locate?: boolean | undefined;
};

export type LoadedStore = {
  readonly name: string;
  readonly uuid: string;
  readonly clusterBytes: bigint;
  readonly totalClusters: bigint;
  readonly freeClusters: bigint;
};

export type Exposure = { readonly reachable: number; readonly held: number };

/** The state for clients: a recorded UP is CLAIMING until this incarnation has the disk ready. */
export function diskState(row: Pick<DiskRow, "state">, observed: DiskReadiness): DiskState {
  return row.state === "UP" && !observed.ready ? "CLAIMING" : row.state;
}

type NewDisk = Pick<
  DiskRow,
  "serial" | "model" | "nsid" | "transport" | "address" | "sizeBytes" | "blockSize"
> &
  Partial<Pick<DiskRow, "kernelName" | "driver" | "controllerName" | "nguid" | "eui64">>;

/** The reason of a disk that was found and of which nothing more is known yet. */
export const NOT_LOOKED_AT = "not looked at yet";

/** The row of a newly found disk, without anything that was observed or asked for later. */
export function newDiskRow(nodeId: string, disk: NewDisk, now: Date): DiskRow {
  return {
    nguid: undefined,
    eui64: undefined,
    kernelName: undefined,
    driver: undefined,
    controllerName: undefined,
    ...disk,
    id: diskId(disk),
    nodeId,
    admitted: false,
    admittedSerial: undefined,
    admittedEvidence: undefined,
    admissionEnded: undefined,
    cordoned: false,
    wanted: "take",
    adoptedStore: undefined,
    zeroRequestedTime: undefined,
    wipe: undefined,
    wipeEnded: undefined,
    discardZeroes: false,
    actor: undefined,
    generation: 1n,
    traceparent: undefined,
    observedGeneration: 0n,
    state: "DISCOVERED",
    stateReason: NOT_LOOKED_AT,
    lvsName: undefined,
    lvsUuid: undefined,
    freeSpace: "UNKNOWN",
    pendingOp: undefined,
    zeroing: undefined,
    zeroingRate: undefined,
    copyingRun: undefined,
    clusterBytes: undefined,
    totalClusters: undefined,
    freeClusters: undefined,
    spaceLevel: "OK",
    health: "UNKNOWN",
    healthReasons: [],
    healthTime: undefined,
    healthSample: undefined,
    evidence: [],
    evidenceFingerprint: fingerprint([]),
    failures: {},
    lastError: undefined,
    attempt: 0,
    nextTryTime: undefined,
    lastSeenTime: now,
    promisedBytes: 0n,
    lvolCount: 0,
    snapshotCount: 0,
    revision: 0n,
    createTime: now,
    updateTime: now,
  };
}
