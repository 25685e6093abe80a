// Rows and views as proto messages. Nothing is decided here.
import type { Condition as ConditionMessage, Meta } from "../gen/storagenode/v1/meta.ts";
import { ConditionStatus } from "../gen/storagenode/v1/meta.ts";
import type { Disk } from "../gen/storagenode/v1/disk.ts";
import { DiskState, FreeSpace } from "../gen/storagenode/v1/disk.ts";
import type { Export } from "../gen/storagenode/v1/export.ts";
import type { Lvol } from "../gen/storagenode/v1/lvol.ts";
import { LvolState, Provisioning } from "../gen/storagenode/v1/lvol.ts";
import type { Condition } from "../model/condition.ts";
import { diskConditions, diskState, type DiskRow, type DiskReadiness } from "../model/disk.ts";
import { EXPORT_MODEL, exportNguid, exportSerial } from "../model/identity.ts";
import {
  lvolConditions,
  lvolState,
  namespaceState,
  sameAddress,
  type QosLimits,
  type VolumeView,
} from "../model/lvol.ts";

const NO_LIMITS: QosLimits = {
  rwIops: 0n,
  rwMibPerSecond: 0n,
  readMibPerSecond: 0n,
  writeMibPerSecond: 0n,
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
  };
}

const CONDITION_STATUS = {
  TRUE: ConditionStatus.CONDITION_STATUS_TRUE,
  FALSE: ConditionStatus.CONDITION_STATUS_FALSE,
  UNKNOWN: ConditionStatus.CONDITION_STATUS_UNKNOWN,
} as const;

/** since: when the condition came to be as it is, if that is known. */
export function conditionMessage(condition: Condition, since?: Date): ConditionMessage {
  return {
    type: condition.type,
    status: CONDITION_STATUS[condition.status],
    reason: condition.reason,
    message: condition.message,
    transitionTime: since,
  };
}

export function lvolMessage(view: VolumeView, clusterBytes: bigint | undefined): Lvol {
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
      thin: row.thin,
      qos: row.qos ?? NO_LIMITS,
      conditions: lvolConditions(view).map((condition) => conditionMessage(condition)),
      lastError: row.lastError ?? "",
      nextTryTime: row.nextTryTime,
    },
  };
}

/** Whether a host could connect now and why not (API.md: ready). hostNqn: for that host. */
function exportReadiness(
  view: VolumeView,
  hostNqn: string | undefined,
): { readonly ready: boolean; readonly reason: string; readonly message: string } {
  const { row, observed } = view;
  const no = (reason: string, message: string) => ({ ready: false, reason, message });
  if (row.deleteRequestedTime !== undefined) return no("DELETING", "the volume is being deleted");
  if (!view.targetConnected) return no("TARGET_DOWN", "the SPDK target does not answer");
  if (!view.diskReady) return no("DISK_NOT_UP", view.diskReason);
  const state = lvolState(view);
  if (state === "DATA_MISSING") return no("DATA_MISSING", "the lvol was there and is gone");
  if (observed.lvol?.kind !== "present") return no("NOT_CREATED", "the lvol is not there yet");
  if (namespaceState(row, observed.subsystem, observed.lvol.uuid) !== "attached") {
    return no("NOT_EXPORTED", "the namespace is not there yet");
  }
  if (observed.subsystem?.kind !== "present" || observed.subsystem.listeners.length === 0) {
    return no("NO_LISTENER", "the subsystem listens nowhere");
  }
  if (hostNqn !== undefined && !row.allowAnyHost && !row.hosts.includes(hostNqn)) {
    return no("HOST_NOT_ALLOWED", `${hostNqn} may not connect: call AllowHost`);
  }
  const { hosts, allowAnyHost } = observed.subsystem;
  if (hostNqn !== undefined && !allowAnyHost && !hosts.includes(hostNqn)) {
    return no("HOST_NOT_ALLOWED_YET", `the target does not let ${hostNqn} in yet`);
  }
  return { ready: true, reason: "READY", message: "" };
}

export function exportMessage(view: VolumeView, hostNqn: string | undefined): Export {
  const { row, observed } = view;
  const readiness = exportReadiness(view, hostNqn);
  const listening = observed.subsystem?.kind === "present" ? observed.subsystem.listeners : [];
  return {
    lvolId: row.id,
    nqn: row.nqn,
    nsid: 1,
    uuid: row.id,
    nguid: exportNguid(row.id),
    serialNumber: exportSerial(row.id),
    modelNumber: EXPORT_MODEL,
    listeners: view.listenAddresses.map((address) => ({
      ...address,
      listening: listening.some((is) => sameAddress(address, is)),
    })),
    allowedHostNqns: [...row.hosts],
    allowAnyHost: row.allowAnyHost,
    ready: readiness.ready,
    conditions: [
      ...lvolConditions(view).map((condition) => conditionMessage(condition)),
      conditionMessage({
        type: "Ready",
        status: readiness.ready ? "TRUE" : "FALSE",
        reason: readiness.reason,
        message: readiness.message,
      }),
    ],
  };
}

export function diskMessage(row: DiskRow, observed: DiskReadiness): Disk {
  const clusterBytes = row.clusterBytes ?? 0n;
  const store =
    row.lvsUuid === undefined
      ? undefined
      : {
          name: row.lvsName ?? "",
          uuid: row.lvsUuid,
          clusterBytes,
          totalBytes: (row.totalClusters ?? 0n) * clusterBytes,
          freeBytes: (row.freeClusters ?? 0n) * clusterBytes,
          promisedBytes: row.promisedBytes,
          freeSpace: FreeSpace[`FREE_SPACE_${row.freeSpace}`],
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
      originalDriver: row.originalDriver ?? "",
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
    },
  };
}
