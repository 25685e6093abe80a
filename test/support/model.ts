// Rows and views for tests of pure rules: complete, valid, and overridable.
import type { DiskRow } from "../../src/model/disk.ts";
import { storeName, volumeNqn } from "../../src/model/identity.ts";
import {
  newLvolRow,
  type CreationRequest,
  type ListenAddress,
  type LvolRow,
  type ObservedVolume,
} from "../../src/model/lvol.ts";
import type { SpaceThresholds } from "../../src/model/space.ts";

export const FLEET = "test";
export const PREFIX = "nqn.2026-11.io.storage-node";
export const NODE = "node-1";
export const VOLUME = "11111111-2222-4333-8444-555555555555";
export const DISK = "66666666-7777-5888-8999-aaaaaaaaaaaa";
export const STORE_UUID = "dddddddd-0000-4000-8000-000000000001";
export const MIB = 1_048_576n;
export const CLUSTER = 4n * MIB;
export const LISTENER: ListenAddress = {
  trtype: "TCP",
  adrfam: "IPv4",
  traddr: "127.0.0.1",
  trsvcid: "4420",
};

export const SPACE_THRESHOLDS: SpaceThresholds = {
  lowPercent: 20,
  criticalPercent: 10,
  marginPercent: 2,
  recordPercent: 1,
};

const TIME = new Date("2026-11-01T00:00:00Z");

export function creationRequest(change: Partial<CreationRequest> = {}): CreationRequest {
  return {
    sizeBytes: 10n * MIB,
    thin: true,
    diskId: undefined,
    sourceSnapshotId: undefined,
    hosts: [],
    allowAnyHost: false,
    qos: undefined,
    ...change,
  };
}

export function lvolRow(change: Partial<LvolRow> = {}): LvolRow {
  const id = change.id ?? VOLUME;
  return {
    ...newLvolRow({
      id,
      nodeId: NODE,
      diskId: DISK,
      request: creationRequest(),
      promisedBytes: 12n * MIB,
      labels: {},
      nqn: volumeNqn(PREFIX, id),
      actor: undefined,
      traceparent: undefined,
      revision: 1n,
      now: TIME,
    }),
    ...change,
  };
}

/** Nothing is known of a volume but what is given. */
export function observedVolume(known: Partial<ObservedVolume> = {}): ObservedVolume {
  return {
    lvol: undefined,
    subsystem: undefined,
    subsystemStale: false,
    lvolTime: undefined,
    listeningSinceMs: undefined,
    isNewExport: false,
    exportEnded: false,
    connected: undefined,
    ...known,
  };
}

export function diskRow(change: Partial<DiskRow> = {}): DiskRow {
  return {
    id: DISK,
    nodeId: NODE,
    serial: "SERIAL1",
    model: "MODEL1",
    nsid: 1,
    admitted: true,
    admittedSerial: "SERIAL1",
    nguid: undefined,
    eui64: undefined,
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
    observedGeneration: 1n,
    state: "UP",
    stateReason: "",
    transport: "PCIe",
    address: "0000:01:00.0",
    kernelName: undefined,
    driver: "vfio-pci",
    controllerName: "sn-0123456789ab",
    lvsName: storeName(FLEET, change.id ?? DISK),
    lvsUuid: STORE_UUID,
    freeSpace: "ZEROED",
    zeroingRate: undefined,
    copyingRun: undefined,
    pendingOp: undefined,
    zeroing: undefined,
    clusterBytes: CLUSTER,
    totalClusters: 255n,
    freeClusters: 255n,
    spaceLevel: "OK",
    health: "OK",
    healthReasons: [],
    healthTime: TIME,
    healthSample: undefined,
    sizeBytes: 1024n * MIB,
    blockSize: 4096,
    evidence: [],
    evidenceFingerprint: "",
    failures: {},
    lastError: undefined,
    attempt: 0,
    nextTryTime: undefined,
    lastSeenTime: TIME,
    promisedBytes: 0n,
    lvolCount: 0,
    snapshotCount: 0,
    revision: 1n,
    createTime: TIME,
    updateTime: TIME,
    ...change,
  };
}
