// Converts rows and views to proto messages. It never reads or changes anything else.
import type { Condition as ConditionMessage, Meta } from "../gen/storagenode/v1/meta.ts";
import type { Duration } from "../gen/google/protobuf/duration.ts";
import type { Iostat } from "../gen/storagenode/v1/node.ts";
import { ConditionStatus } from "../gen/storagenode/v1/meta.ts";
import type { Disk } from "../gen/storagenode/v1/disk.ts";
import { DiskState, FreeSpace, LocateState } from "../gen/storagenode/v1/disk.ts";
import type { Lvol } from "../gen/storagenode/v1/lvol.ts";
import { LvolState, Provisioning } from "../gen/storagenode/v1/lvol.ts";
import { SnapshotState, type Snapshot } from "../gen/storagenode/v1/snapshot.ts";
import type { Condition } from "../model/condition.ts";
import { diskConditions } from "../model/disk-conditions.ts";
import { diskState, type DiskRow, type DiskReadiness } from "../model/disk.ts";
import { lvolConditions, lvolState, type VolumeView } from "../model/lvol-state.ts";
import { etagOf } from "../model/change-admission.ts";
import type { IoReading } from "../model/iostat.ts";
import {
  deleteBlockers,
  snapshotConditions,
  snapshotState,
  type SnapshotView,
} from "../model/snapshot.ts";
import type { SpaceBytes } from "./capacity.ts";
import { healthMessage } from "./health-messages.ts";

const NO_SPACE: SpaceBytes = {
  totalBytes: 0n,
  freeBytes: 0n,
  allocatedBytes: 0n,
  snapshotBytes: 0n,
  orphanBytes: 0n,
  promisedBytes: 0n,
};

type Stored = {
  readonly id: string;
  readonly generation: bigint;
  readonly revision: bigint;
  readonly createTime: Date;
  readonly updateTime: Date;
  readonly deleteTime?: Date | undefined;
};

function metaMessage(row: Stored): Meta {
  return {
    id: row.id,
    generation: row.generation,
    revision: row.revision,
    createTime: row.createTime,
    updateTime: row.updateTime,
    deleteTime: row.deleteTime,
    etag: etagOf(row),
  };
}

const CONDITION_STATUS = {
  TRUE: ConditionStatus.CONDITION_STATUS_TRUE,
  FALSE: ConditionStatus.CONDITION_STATUS_FALSE,
  UNKNOWN: ConditionStatus.CONDITION_STATUS_UNKNOWN,
} as const;

/** since: time of the condition's last transition, if known. */
export function conditionMessage(condition: Condition, since?: Date): ConditionMessage {
  return {
    type: condition.type,
    status: CONDITION_STATUS[condition.status],
    reason: condition.reason,
    message: condition.message,
    transitionTime: since,
  };
}

/** io: the last reading of its counters in this incarnation of the target. */
export function lvolMessage(
  view: VolumeView,
  clusterBytes: bigint | undefined,
  io: IoReading | undefined,
): Lvol {
  const { row, observed } = view;
  const lvol = observed.lvol?.kind === "present" ? observed.lvol : undefined;
  const state = lvolState(view);
  return {
    meta: metaMessage(row),
    spec: {
      sizeBytes: row.sizeBytes,
      provisioning: row.thin ? Provisioning.PROVISIONING_THIN : Provisioning.PROVISIONING_THICK,
      diskId: row.request.diskId ?? "",
      sourceSnapshotId: row.request.sourceSnapshotId ?? "",
      allowedHostNqns: [...row.hosts],
      allowAnyHost: row.allowAnyHost,
      qos: row.qos,
      labels: { ...row.labels },
    },
    status: {
      state: LvolState[`LVOL_STATE_${state}`],
      observedGeneration: row.observedGeneration,
      diskId: row.diskId,
      lvolUuid: row.lvolUuid ?? "",
      nqn: row.nqn,
      sizeBytes: lvol?.sizeBytes ?? row.observedSizeBytes ?? 0n,
      allocatedBytes: (lvol?.allocatedClusters ?? 0n) * (clusterBytes ?? 0n),
      thin: lvol?.thin ?? row.thin,
      qos: lvol?.limits,
      conditions: lvolConditions(view).map((condition) => conditionMessage(condition)),
      lastError: row.lastError ?? "",
      nextTryTime: row.nextTryTime,
      ...iostatStatus(io),
      allocatedTime: lvol?.allocatedClusters === undefined ? undefined : observed.lvolTime,
    },
  };
}

export function snapshotMessage(view: SnapshotView, clusterBytes: bigint | undefined): Snapshot {
  const { row, observed, clones } = view;
  const lvol = observed?.kind === "present" ? observed : undefined;
  return {
    meta: metaMessage(row),
    spec: { sourceLvolId: row.sourceLvolId ?? "", labels: { ...row.labels } },
    status: {
      state: SnapshotState[`SNAPSHOT_STATE_${snapshotState(view)}`],
      observedGeneration: row.observedGeneration,
      diskId: row.diskId,
      lvolUuid: row.lvolUuid ?? "",
      sizeBytes: lvol?.sizeBytes ?? row.observedSizeBytes ?? 0n,
      allocatedBytes: (lvol?.allocatedClusters ?? 0n) * (clusterBytes ?? 0n),
      blockingLvolIds: [...deleteBlockers(clones)],
      conditions: snapshotConditions(view).map((condition) => conditionMessage(condition)),
      lastError: row.lastError ?? "",
      nextTryTime: row.nextTryTime,
    },
  };
}

/** What was read of an object's counters last, for its status. */
function iostatStatus(io: IoReading | undefined) {
  return { iostat: io && iostatMessage(io, false), iostatTime: io?.time };
}

export function diskMessage(
  row: DiskRow,
  observed: DiskReadiness,
  {
    space,
    io,
    originalDriver,
  }: {
    readonly space: SpaceBytes | undefined;
    readonly io: IoReading | undefined;
    /** From which its controller was taken; undefined: it was not. */
    readonly originalDriver: string | undefined;
  },
): Disk {
  const store =
    row.lvsUuid === undefined
      ? undefined
      : {
          name: row.lvsName ?? "",
          uuid: row.lvsUuid,
          clusterBytes: row.clusterBytes ?? 0n,
          freeSpace: FreeSpace[`FREE_SPACE_${row.freeSpace}`],
          ...(space ?? NO_SPACE),
        };
  return {
    meta: metaMessage(row),
    spec: {
      admitted: row.admitted,
      admittedSerial: row.admittedSerial ?? "",
      cordoned: row.cordoned,
    },
    status: {
      state: DiskState[`DISK_STATE_${diskState(row, observed)}`],
      observedGeneration: row.observedGeneration,
      serial: row.serial,
      model: row.model,
      nsid: row.nsid,
      transport: row.transport,
      address: row.address,
      kernelName: row.kernelName ?? "",
      driver: row.driver ?? "",
      originalDriver: originalDriver ?? "",
      controllerName: row.controllerName ?? "",
      sizeBytes: row.sizeBytes,
      blockSize: row.blockSize,
      lvstore: store,
      evidence: row.evidence.map((item) => ({ ...item })),
      evidenceFingerprint: row.evidenceFingerprint,
      conditions: diskConditions(row, observed).map((condition) => conditionMessage(condition)),
      lastSeenTime: row.lastSeenTime,
      lastError: row.lastError ?? "",
      nextTryTime: row.nextTryTime,
      zeroing: row.zeroing,
      discardZeroes: row.discardZeroes,
      health: healthMessage(row, observed),
      locate: locateState(observed.locate),
      ...iostatStatus(io),
    },
  };
}

function locateState(isOn: boolean | undefined): LocateState {
  if (isOn === undefined) return LocateState.LOCATE_STATE_UNSPECIFIED;
  return isOn ? LocateState.LOCATE_STATE_ON : LocateState.LOCATE_STATE_OFF;
}

export function iostatMessage(
  { lvolId = "", diskId, read, write }: IoReading,
  reset: boolean,
): Iostat {
  return {
    lvolId,
    diskId,
    bytesRead: read.bytes,
    numReadOps: read.operations,
    readLatency: durationOf(read.latencyNs),
    bytesWritten: write.bytes,
    numWriteOps: write.operations,
    writeLatency: durationOf(write.latencyNs),
    reset,
  };
}

const NS_PER_SECOND = 1_000_000_000n;

function durationOf(ns: bigint): Duration {
  return { seconds: ns / NS_PER_SECOND, nanos: Number(ns % NS_PER_SECOND) };
}
