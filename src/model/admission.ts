// Decides mutations of intent: a pure function from (what is there, what is asked) to the rows to
// write or a Refusal. It runs inside the transaction that writes the intent, under the node row's
// lock, so that what it counts cannot change under it.
import type { DiskRow } from "./disk.ts";
import { Refusal } from "./errors.ts";
import { volumeNqn } from "./identity.ts";
import type { CreationRequest, LvolRow } from "./lvol.ts";
import { place } from "./placement.ts";

export type Mutation =
  | {
      readonly kind: "provision";
      readonly id: string;
      readonly request: CreationRequest;
      readonly labels: Readonly<Record<string, string>>;
      readonly validateOnly: boolean;
      readonly traceparent: string | undefined;
    }
  | {
      readonly kind: "delete";
      readonly id: string;
      readonly force: boolean;
      readonly traceparent: string | undefined;
    }
  | {
      readonly kind: "allowHost" | "revokeHost";
      readonly id: string;
      readonly host: string;
      readonly traceparent: string | undefined;
    }
  | {
      readonly kind: "admitDisk";
      readonly id: string;
      readonly serial: string;
      readonly evidenceFingerprint: string | undefined;
      readonly traceparent: string | undefined;
    }
  | {
      readonly kind: "zeroFreeSpace";
      readonly id: string;
      readonly traceparent: string | undefined;
    };

export type AdmissionPolicy = {
  readonly nodeId: string;
  readonly nqnPrefix: string;
  readonly overcommit: number;
  readonly maxExports: number;
  readonly isolation: "strict" | "trusted";
};

/** The part of the database that a batch of mutations can see and change. */
export type AdmissionState = {
  readonly policy: AdmissionPolicy;
  readonly nodeCordoned: boolean;
  readonly now: Date;
  readonly revision: bigint;
  /** Every row of the fleet with an id that the batch names. */
  readonly lvols: Map<string, LvolRow>;
  /** Every disk of this node. */
  readonly disks: Map<string, DiskRow>;
};

export type Decision =
  | { readonly kind: "lvol"; readonly row: LvolRow | undefined }
  | { readonly kind: "disk"; readonly row: DiskRow };

/**
 * Applies one mutation to the state, in which later mutations of the same batch see it.
 * Throws a Refusal, with the state untouched, when it may not be.
 */
export function admit(state: AdmissionState, mutation: Mutation): Decision {
  switch (mutation.kind) {
    case "provision":
      return { kind: "lvol", row: provision(state, mutation) };
    case "delete":
      return { kind: "lvol", row: requestDelete(state, mutation) };
    case "allowHost":
    case "revokeHost":
      return { kind: "lvol", row: changeHost(state, mutation) };
    case "admitDisk":
      return { kind: "disk", row: admitDisk(state, mutation) };
    case "zeroFreeSpace":
      return { kind: "disk", row: zeroFreeSpace(state, mutation) };
  }
}

function provision(
  state: AdmissionState,
  mutation: Extract<Mutation, { kind: "provision" }>,
): LvolRow {
  const existing = state.lvols.get(mutation.id);
  if (existing !== undefined) return sameOrRefuse(state, existing, mutation.request);
  const { request, id } = mutation;
  if (state.nodeCordoned) throw new Refusal("CORDONED", "the node takes no new volumes");
  const exports = [...state.disks.values()].reduce((sum, disk) => sum + disk.lvolCount, 0);
  if (exports >= state.policy.maxExports) {
    throw new Refusal(
      "EXPORT_LIMIT",
      `the target holds ${state.policy.maxExports} exports at most`,
      {
        quota: [{ subject: "exports", description: `${exports} used, 0 left` }],
      },
    );
  }
  const { disk, promisedBytes } = place(state.disks, state.policy, request);
  const row: LvolRow = {
    id,
    nodeId: state.policy.nodeId,
    diskId: disk.id,
    request,
    sizeBytes: request.sizeBytes,
    promisedBytes,
    thin: request.thin,
    hosts: request.hosts,
    allowAnyHost: request.allowAnyHost,
    qos: request.qos,
    labels: mutation.labels,
    nqn: volumeNqn(state.policy.nqnPrefix, id),
    generation: 1n,
    deleteRequestedTime: undefined,
    deleteForced: false,
    traceparent: mutation.traceparent,
    observedGeneration: 0n,
    lvolUuid: undefined,
    lvsUuid: undefined,
    observedSizeBytes: undefined,
    exported: false,
    pendingOp: undefined,
    unconfirmed: false,
    lastError: undefined,
    failed: false,
    attempt: 0,
    nextTryTime: undefined,
    revision: state.revision,
    createTime: state.now,
    updateTime: state.now,
    deleteTime: undefined,
  };
  if (mutation.validateOnly) return row;
  state.lvols.set(id, row);
  state.disks.set(disk.id, {
    ...disk,
    promisedBytes: disk.promisedBytes + promisedBytes,
    lvolCount: disk.lvolCount + 1,
  });
  return row;
}

/** A repeat of the creation request gives the same answer; anything else is a refusal. */
function sameOrRefuse(state: AdmissionState, row: LvolRow, asked: CreationRequest): LvolRow {
  if (row.nodeId !== state.policy.nodeId) {
    throw new Refusal("OTHER_NODE", `volume ${row.id} belongs to another node`);
  }
  const fields = differingFields(row.request, asked, row.diskId);
  if (row.deleteTime !== undefined || row.deleteRequestedTime !== undefined) {
    throw new Refusal("ID_RETIRED", `id ${row.id} was used by a volume that was deleted`);
  }
  if (fields.length > 0) {
    throw new Refusal(
      "SPEC_MISMATCH",
      `volume ${row.id} exists with another ${fields.join(", ")}`,
      {
        metadata: { fields: fields.join(",") },
      },
    );
  }
  return row;
}

function differingFields(was: CreationRequest, asked: CreationRequest, diskId: string): string[] {
  const fields: string[] = [];
  if (was.sizeBytes !== asked.sizeBytes) fields.push("size_bytes");
  if (was.thin !== asked.thin) fields.push("provisioning");
  if (asked.diskId !== undefined && asked.diskId !== diskId) fields.push("disk_id");
  if (was.sourceSnapshotId !== asked.sourceSnapshotId) fields.push("source_snapshot_id");
  if (was.hosts.join() !== asked.hosts.join()) fields.push("allowed_host_nqns");
  if (was.allowAnyHost !== asked.allowAnyHost) fields.push("allow_any_host");
  const qosKey = (request: CreationRequest) =>
    [
      request.qos?.rwIops ?? 0n,
      request.qos?.rwMibPerSecond ?? 0n,
      request.qos?.readMibPerSecond ?? 0n,
      request.qos?.writeMibPerSecond ?? 0n,
    ].join();
  if (qosKey(was) !== qosKey(asked)) fields.push("qos");
  return fields;
}

function requestDelete(
  state: AdmissionState,
  mutation: Extract<Mutation, { kind: "delete" }>,
): LvolRow | undefined {
  const row = state.lvols.get(mutation.id);
  // Never seen: nothing to do and nothing to write, as CSI has it.
  if (row === undefined) return undefined;
  if (row.nodeId !== state.policy.nodeId) {
    throw new Refusal("OTHER_NODE", `volume ${row.id} belongs to another node`);
  }
  if (row.deleteRequestedTime !== undefined) return row;
  const deleted: LvolRow = {
    ...row,
    deleteRequestedTime: state.now,
    deleteForced: mutation.force,
    generation: row.generation + 1n,
    traceparent: mutation.traceparent,
    failed: false,
    attempt: 0,
    nextTryTime: undefined,
    revision: state.revision,
    updateTime: state.now,
  };
  state.lvols.set(row.id, deleted);
  return deleted;
}

function changeHost(
  state: AdmissionState,
  mutation: Extract<Mutation, { kind: "allowHost" | "revokeHost" }>,
): LvolRow {
  const row = state.lvols.get(mutation.id);
  if (row === undefined || row.nodeId !== state.policy.nodeId || row.deleteTime !== undefined) {
    throw new Refusal("NOT_FOUND", `volume ${mutation.id} is not on this node`);
  }
  const allowed = row.hosts.includes(mutation.host);
  if (allowed === (mutation.kind === "allowHost") && !row.unconfirmed) return row;
  if (row.deleteRequestedTime !== undefined) {
    throw new Refusal("ID_RETIRED", `volume ${row.id} is being deleted`);
  }
  const others = row.hosts.filter((host) => host !== mutation.host);
  const hosts = mutation.kind === "revokeHost" ? others : [...others, mutation.host].toSorted();
  const changed: LvolRow = {
    ...row,
    hosts,
    // Somebody said who may connect: from now on its export is what the row says.
    unconfirmed: false,
    generation: row.generation + 1n,
    traceparent: mutation.traceparent,
    failed: false,
    attempt: 0,
    nextTryTime: undefined,
    revision: state.revision,
    updateTime: state.now,
  };
  state.lvols.set(row.id, changed);
  return changed;
}

/** Asked again while it is under way, or where there is nothing to zero: the same. */
function zeroFreeSpace(
  state: AdmissionState,
  { id, traceparent }: Extract<Mutation, { kind: "zeroFreeSpace" }>,
): DiskRow {
  const disk = state.disks.get(id);
  if (disk === undefined) throw new Refusal("NOT_FOUND", `disk ${id} is not on this node`);
  if (disk.lvsUuid === undefined) {
    throw new Refusal("DISK_NOT_UP", `disk ${id} has no store of this node`);
  }
  if (disk.freeSpace === "ZEROED" || disk.zeroRequestedTime !== undefined) return disk;
  const asked: DiskRow = {
    ...disk,
    zeroRequestedTime: state.now,
    generation: disk.generation + 1n,
    traceparent,
    attempt: 0,
    nextTryTime: undefined,
    revision: state.revision,
    updateTime: state.now,
  };
  state.disks.set(disk.id, asked);
  return asked;
}

function admitDisk(
  state: AdmissionState,
  mutation: Extract<Mutation, { kind: "admitDisk" }>,
): DiskRow {
  const disk = state.disks.get(mutation.id);
  if (disk === undefined) {
    throw new Refusal("NOT_FOUND", `disk ${mutation.id} is not on this node`);
  }
  if (disk.serial !== mutation.serial) {
    throw new Refusal("SERIAL_MISMATCH", `disk ${disk.id} has the serial ${disk.serial}`);
  }
  const asked = mutation.evidenceFingerprint;
  if (asked !== undefined && asked !== disk.evidenceFingerprint) {
    throw new Refusal("EVIDENCE_CHANGED", `the evidence on disk ${disk.id} is no longer the same`);
  }
  // Given up on, it is tried again: whoever asks has seen to what was wrong.
  if (disk.admitted && disk.wanted === "take" && disk.state !== "FAILED") return disk;
  const admitted: DiskRow = {
    ...disk,
    admitted: true,
    admittedSerial: mutation.serial,
    admittedEvidence: asked,
    wanted: "take",
    generation: disk.generation + 1n,
    traceparent: mutation.traceparent,
    attempt: 0,
    nextTryTime: undefined,
    revision: state.revision,
    updateTime: state.now,
  };
  state.disks.set(disk.id, admitted);
  return admitted;
}
