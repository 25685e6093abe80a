// A disk: its row, what was seen of it, and the pure rules that derive its state from the two.
import type { Condition, DiskConditionType } from "./condition.ts";
import type { Evidence } from "./evidence.ts";
import type { PendingOp } from "./pending-op.ts";

export const DISK_STATES = [
  "DISCOVERED",
  "CLAIMING",
  "UP",
  "IN_USE",
  "FOREIGN",
  "CONFLICT",
  "FAILED",
  "MISSING",
  "RELEASED",
] as const;

export type DiskState = (typeof DISK_STATES)[number];

export type FreeSpace = "ZEROED" | "UNKNOWN";

export type DiskRow = {
  readonly id: string;
  readonly nodeId: string;
  readonly serial: string;
  readonly model: string;
  readonly nsid: number;
  // wanted
  readonly admitted: boolean;
  readonly admittedSerial: string | undefined;
  /** Fingerprint of the evidence that the admission was given on, if the caller named one. */
  readonly admittedEvidence: string | undefined;
  readonly cordoned: boolean;
  readonly wanted: "take" | "release";
  /** Zeroing of the free clusters was asked for; undefined once they are zeroed. */
  readonly zeroRequestedTime: Date | undefined;
  readonly generation: bigint;
  readonly traceparent: string | undefined;
  // recorded
  readonly observedGeneration: bigint;
  readonly state: DiskState;
  readonly stateReason: string;
  readonly transport: "PCIe" | "TCP" | "RDMA";
  readonly address: string;
  readonly kernelName: string | undefined;
  readonly driver: string | undefined;
  /** Remembered before the disk is taken from its kernel driver, given back on release. */
  readonly originalDriver: string | undefined;
  readonly controllerName: string | undefined;
  readonly lvsName: string | undefined;
  /** Set once our store was made or imported; a disk with it is never formatted again. */
  readonly lvsUuid: string | undefined;
  readonly freeSpace: FreeSpace;
  readonly pendingOp: PendingOp | undefined;
  readonly clusterBytes: bigint | undefined;
  readonly totalClusters: bigint | undefined;
  readonly freeClusters: bigint | undefined;
  readonly sizeBytes: bigint;
  readonly blockSize: number;
  readonly evidence: readonly Evidence[];
  readonly evidenceFingerprint: string;
  readonly lastError: string | undefined;
  readonly attempt: number;
  readonly nextTryTime: Date | undefined;
  readonly lastSeenTime: Date;
  // kept by the writer of intents, inside the transaction that changes what they count
  readonly promisedBytes: bigint;
  readonly lvolCount: number;
  readonly revision: bigint;
  readonly createTime: Date;
  readonly updateTime: Date;
};

/** What a loop records of a disk; absent fields stay as they are. */
export type DiskStatusPatch = Partial<
  Pick<
    DiskRow,
    | "observedGeneration"
    | "state"
    | "stateReason"
    | "transport"
    | "address"
    | "kernelName"
    | "driver"
    | "originalDriver"
    | "controllerName"
    | "lvsName"
    | "lvsUuid"
    | "freeSpace"
    | "pendingOp"
    | "zeroRequestedTime"
    | "clusterBytes"
    | "totalClusters"
    | "freeClusters"
    | "sizeBytes"
    | "blockSize"
    | "evidence"
    | "evidenceFingerprint"
    | "lastError"
    | "attempt"
    | "nextTryTime"
    | "lastSeenTime"
  >
>;

/** Bytes that volumes may be promised on the disk in all, over-commit included. */
export function promisableBytes(
  disk: Pick<DiskRow, "totalClusters" | "clusterBytes">,
  overcommit: number,
): bigint {
  const total = (disk.totalClusters ?? 0n) * (disk.clusterBytes ?? 0n);
  // Four decimal places of the factor are kept: the product stays exact in bigint.
  return (total * BigInt(Math.round(overcommit * 10_000))) / 10_000n;
}

/** Whether the disk can be used now: its controller attached and our store loaded in this run. */
export type DiskReadiness = {
  readonly ready: boolean;
  /** Why not, a sentence; empty when ready. */
  readonly reason: string;
};

function yes(
  type: DiskConditionType,
  holds: boolean,
  reason: string,
  message: string,
): Condition<DiskConditionType> {
  return holds
    ? { type, status: "TRUE", reason: "Yes", message: "" }
    : { type, status: "FALSE", reason, message };
}

/** The state that clients see: UP as recorded counts only while it holds in the target's run. */
export function diskState(row: Pick<DiskRow, "state">, observed: DiskReadiness): DiskState {
  return row.state === "UP" && !observed.ready ? "CLAIMING" : row.state;
}

export function diskConditions(
  row: DiskRow,
  observed: DiskReadiness,
): readonly Condition<DiskConditionType>[] {
  const why = observed.reason === "" ? row.stateReason : observed.reason;
  const schedulable = observed.ready && !row.cordoned;
  return [
    yes("Claimed", row.controllerName !== undefined, "NotClaimed", why),
    yes("Attached", observed.ready, "NotAttached", why),
    yes("StoreReady", observed.ready && row.lvsUuid !== undefined, "NoStore", why),
    yes(
      "FreeSpaceZeroed",
      row.freeSpace === "ZEROED",
      "NotZeroed",
      "free clusters may hold old bytes; see ZeroFreeSpace",
    ),
    { type: "Healthy", status: "UNKNOWN", reason: "NotMeasured", message: "" },
    yes("Schedulable", schedulable, row.cordoned ? "Cordoned" : "NotUp", why),
  ];
}
