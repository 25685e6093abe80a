// Facts of a healthy node, volume and disk for tests of explanations; each field can be overridden.
import type { DiskFacts } from "../../src/explain/disk-causes.ts";
import type { NodeFacts } from "../../src/explain/explanation.ts";
import { exportSerial } from "../../src/model/identity.ts";
import type { VolumeView } from "../../src/model/lvol-state.ts";
import { newSnapshotRow, type SnapshotRow, type SnapshotView } from "../../src/model/snapshot.ts";
import { NO_LIMITS, type LvolRow, type ObservedSubsystem } from "../../src/model/lvol.ts";
import type { LvolFacts } from "../../src/explain/lvol-facts.ts";
import {
  CLUSTER,
  DISK,
  diskRow,
  LISTENER,
  lvolRow,
  MIB,
  NODE,
  observedVolume,
  STORE_UUID,
  VOLUME,
} from "./model.ts";

const SINCE = new Date("2026-11-26T01:00:00.123Z");
export const NOW = new Date("2026-11-26T02:00:00Z");
export const HOST = "nqn.2026-11.io.host:a";
export const UUID = "99999999-0000-4000-8000-000000000009";

export function nodeFacts(change: Partial<NodeFacts> = {}): NodeFacts {
  const healthy = { ok: true, reason: "", since: SINCE };
  return {
    now: NOW,
    hold: undefined,
    database: healthy,
    lock: healthy,
    lease: healthy,
    writes: healthy,
    kernel: healthy,
    target: {
      ...healthy,
      socket: "/run/spdk.sock",
      answers: true,
      unresponsive: false,
      orphanLvols: 0,
    },
    ownAddresses: ["127.0.0.1", "198.51.100.7"],
    writeMode: "read-write",
    ...change,
  };
}

export const down = (reason: string) => ({ ok: false, reason, since: SINCE });

export const SUBSYSTEM: Extract<ObservedSubsystem, { kind: "present" }> = {
  kind: "present",
  serialNumber: exportSerial(VOLUME),
  dmrsl: 512,
  allowAnyHost: false,
  hosts: [HOST],
  listeners: [LISTENER],
  namespaces: [{ nsid: 1, bdevName: UUID, uuid: VOLUME }],
};

export const LVOL = {
  kind: "present",
  uuid: UUID,
  lvsUuid: STORE_UUID,
  sizeBytes: 12n * MIB,
  thin: true,
  allocatedClusters: 1n,
  parent: undefined,
  limits: NO_LIMITS,
} as const;

export function volumeRow(change: Partial<LvolRow> = {}): LvolRow {
  const provisioned = {
    lvolUuid: UUID,
    lvsUuid: STORE_UUID,
    exported: true,
    observedGeneration: 1n,
  };
  return lvolRow({ hosts: [HOST], ...provisioned, ...change });
}

export function lvolFacts(
  change: Partial<Omit<LvolFacts, "view">> & { readonly view?: Partial<VolumeView> } = {},
): LvolFacts {
  const { view, ...rest } = change;
  return {
    disk: diskRow(),
    diskState: "UP",
    freeClusters: 100n,
    allocatedClusters: 1n,
    connectedHosts: [],
    node: nodeFacts(),
    steps: [],
    inFlight: false,
    loopError: undefined,
    ...rest,
    view: {
      row: volumeRow(),
      observed: observedVolume({ lvol: LVOL, subsystem: SUBSYSTEM }),
      failures: {},
      outcomeUnknown: undefined,
      subsystemUnknown: undefined,
      targetConnected: true,
      diskReady: true,
      diskReason: "",
      listenAddresses: [LISTENER],
      space: undefined,
      wait: undefined,
      held: undefined,
      exposed: false,
      ...view,
    },
  };
}

/** A snapshot that was taken, and that nothing stands on. */
export function snapshotView(change: Partial<SnapshotRow> = {}): SnapshotView {
  const row = newSnapshotRow({
    id: "88888888-0000-4000-8000-000000000008",
    nodeId: NODE,
    diskId: DISK,
    familyRoot: VOLUME,
    sourceLvolId: VOLUME,
    adopted: false,
    promisedBytes: 0n,
    labels: {},
    actor: undefined,
    traceparent: undefined,
    revision: 1n,
    now: SINCE,
  });
  return {
    row: { ...row, lvolUuid: UUID, lvsUuid: STORE_UUID, observedSizeBytes: 12n * MIB, ...change },
    observed: LVOL,
    failures: {},
    outcomeUnknown: undefined,
    targetConnected: true,
    diskReady: true,
    diskReason: "",
    wait: undefined,
    clones: { made: [], pending: [] },
  };
}

export function diskFacts(change: Partial<DiskFacts> = {}): DiskFacts {
  const row = change.row ?? diskRow();
  return {
    row,
    state: row.state,
    reason: "",
    failures: row.failures,
    outcomeUnknown: undefined,
    targetConnected: true,
    targetListed: true,
    onTarget: {
      controllerName: "sn-0123456789ab",
      bdevName: "sn-0123456789abn1",
      store: {
        name: row.lvsName ?? "",
        uuid: STORE_UUID,
        clusterBytes: CLUSTER,
        totalClusters: 255n,
        freeClusters: 255n,
      },
    },
    kernelListed: true,
    inKernel: {
      address: "0000:01:00.0",
      driver: "vfio-pci",
      kernelName: undefined,
      evidence: undefined,
    },
    fabric: undefined,
    conflict: undefined,
    ownSubjects: new Set(),
    setback: undefined,
    waits: undefined,
    space: undefined,
    freeClusters: 250n,
    isolation: "strict",
    hostsMayFree: false,
    zeroesByItself: false,
    deallocatedReads: undefined,
    exposure: undefined,
    overcommit: 1,
    node: nodeFacts(),
    steps: [],
    inFlight: false,
    loopError: undefined,
    ...change,
  };
}
