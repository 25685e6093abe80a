// Admission of intents: a pure function from (current rows, mutation) to the rows to write or a
// Refusal. It runs inside the transaction that writes the intent, while the node's row is locked,
// so that no other transaction changes the sums that it checks.
import { adoptOrphan, idsOfAdoption, type AdoptOrphan } from "./adopt-admission.ts";
import {
  adoptDisk,
  idsInStore,
  inspectDisk,
  type AdoptDisk,
  type InspectDisk,
} from "./adopt-disk-admission.ts";
import { changeCordon, type CordonChange } from "./cordon-admission.ts";
import type { ControllerRow } from "./controller.ts";
import type { DiscardGuard, Isolation } from "./discards.ts";
import {
  admitDisk,
  endAdmission,
  inspectController,
  type AdmitDisk,
  type EndAdmission,
  type InspectController,
} from "./disk-admission.ts";
import type { DiskRow } from "./disk.ts";
import { Refusal } from "./errors.ts";
import { resize, update, type Resize, type Update } from "./change-admission.ts";
import { changeHost, confirmHosts, type ConfirmHosts, type HostChange } from "./host-admission.ts";
import { volumeNqn } from "./identity.ts";
import { newIntent, type Intent } from "./intent.ts";
import { newLvolRow, NO_LIMITS, sameLimits, type CreationRequest, type LvolRow } from "./lvol.ts";
import { place } from "./placement.ts";
import { releaseDisk, type ReleaseDisk } from "./release-admission.ts";
import { cloneSource, deleteSnapshot, takeSnapshot, wrongKind } from "./snapshot-admission.ts";
import type { SnapshotRow } from "./snapshot.ts";
import { idRetired, otherNode, type UsedId } from "./used-ids.ts";
import { wipeDisk, type WipeDisk } from "./wipe-admission.ts";
import type { Zeroing } from "./zeroing.ts";

export type Mutation = Intent &
  (
    | {
        readonly kind: "provision";
        readonly request: CreationRequest;
        readonly labels: Readonly<Record<string, string>>;
        readonly validateOnly: boolean;
        /** Allocated bytes of orphans by disk, as observed; none: not known. */
        readonly orphanBytes?: ReadonlyMap<string, bigint>;
        /** Free clusters by disk, as observed; none: not known. */
        readonly freeClusters?: ReadonlyMap<string, bigint>;
        /** Of the target that is connected, or was last; undefined: not known. */
        readonly discardGuard?: DiscardGuard | undefined;
      }
    | { readonly kind: "delete"; readonly force: boolean; readonly reason: string }
    | {
        readonly kind: "snapshot";
        readonly sourceLvolId: string;
        readonly labels: Readonly<Record<string, string>>;
        readonly orphanBytes?: ReadonlyMap<string, bigint>;
        readonly discardGuard?: DiscardGuard | undefined;
      }
    | { readonly kind: "deleteSnapshot"; readonly deferred: boolean }
    | HostChange
    | ConfirmHosts
    | AdoptOrphan
    | Resize
    | Update
    | AdmitDisk
    | EndAdmission
    | InspectController
    | ReleaseDisk
    | InspectDisk
    | AdoptDisk
    | WipeDisk
    | {
        readonly kind: "zeroFreeSpace";
        /** Hosts may return clusters to the store meanwhile, with what stands in them. */
        readonly discardsFree: boolean;
      }
    | CordonChange
  );

export type AdmissionPolicy = {
  readonly nodeId: string;
  readonly nqnPrefix: string;
  readonly overcommit: number;
  readonly maxExports: number;
  readonly isolation: Isolation;
  readonly zeroing: Zeroing;
};

/** Limits that are no settings. */
export type AdmissionLimits = {
  /** Hosts of one volume. */
  readonly hosts: number;
};

/** The part of the database that a batch of mutations can see and change. */
export type AdmissionState = {
  readonly policy: AdmissionPolicy;
  readonly limits: AdmissionLimits;
  nodeCordoned: boolean;
  readonly now: Date;
  readonly revision: bigint;
  /** The volume rows, of any node of the fleet, whose ids the batch names. */
  readonly lvols: Map<string, LvolRow>;
  /** The snapshots that the batch names, and with them all volumes and snapshots of their families. */
  readonly snapshots: Map<string, SnapshotRow>;
  /** The ids that the batch names and that were used by what has no row any more. */
  readonly gone: ReadonlyMap<string, UsedId>;
  /** Every disk of this node. */
  readonly disks: Map<string, DiskRow>;
  /** Every controller of this node, by PCI address. */
  readonly controllers: Map<string, ControllerRow>;
  /** The volume of this node whose lvol has the uuid, tombstones included. */
  readonly volumeOfLvol: (uuid: string) => LvolRow | undefined;
};

export type Decision =
  | { readonly kind: "lvol"; readonly row: LvolRow | undefined }
  | { readonly kind: "snapshot"; readonly row: SnapshotRow | undefined }
  | { readonly kind: "disk"; readonly row: DiskRow }
  | { readonly kind: "controller"; readonly row: ControllerRow }
  | { readonly kind: "hosts"; readonly confirmed: number; readonly row?: undefined }
  | { readonly kind: "cordon"; readonly changed: boolean; readonly row?: undefined };

/** Ids of the rows that a mutation may change. */
export function changedIds(mutation: Mutation): readonly string[] {
  if (mutation.kind === "confirmHosts") return mutation.confirmations.map(({ id }) => id);
  if (mutation.kind === "cordon" && mutation.of === "node") return [];
  if (mutation.kind === "inspectController") return [];
  if (mutation.kind === "adoptDisk") return [mutation.id, ...idsInStore(mutation)];
  return [mutation.id];
}

/** Ids of the rows that a mutation reads or may change, but for disks. */
export function namedIds(mutation: Mutation): readonly string[] {
  const ids = changedIds(mutation);
  if (mutation.kind === "snapshot") return [...ids, mutation.sourceLvolId];
  if (mutation.kind === "adoptOrphan") return idsOfAdoption(mutation);
  const source = mutation.kind === "provision" ? mutation.request.sourceSnapshotId : undefined;
  return source === undefined ? ids : [...ids, source];
}

/**
 * Applies one mutation to the state, so that later mutations of the same batch see the result.
 * Throws a Refusal if the mutation is not allowed; the state is then unchanged.
 */
export function admit(state: AdmissionState, mutation: Mutation): Decision {
  switch (mutation.kind) {
    case "provision":
      return { kind: "lvol", row: provision(state, mutation) };
    case "delete":
      return { kind: "lvol", row: requestDelete(state, mutation) };
    case "snapshot":
      return { kind: "snapshot", row: takeSnapshot(state, mutation) };
    case "deleteSnapshot":
      return { kind: "snapshot", row: deleteSnapshot(state, mutation) };
    case "allowHost":
    case "revokeHost":
      return { kind: "lvol", row: changeHost(state, mutation) };
    case "adoptOrphan":
      return { kind: "lvol", row: adoptOrphan(state, mutation) };
    case "confirmHosts":
      return { kind: "hosts", confirmed: confirmHosts(state, mutation) };
    case "resize":
      return { kind: "lvol", row: resize(state, mutation) };
    case "update":
      return { kind: "lvol", row: update(state, mutation) };
    case "admitDisk":
      return { kind: "disk", row: admitDisk(state, mutation) };
    case "endAdmission":
      return { kind: "disk", row: endAdmission(state, mutation) };
    case "releaseDisk":
      return { kind: "disk", row: releaseDisk(state, mutation) };
    case "inspectDisk":
      return { kind: "disk", row: inspectDisk(state, mutation) };
    case "adoptDisk":
      return { kind: "disk", row: adoptDisk(state, mutation) };
    case "inspectController":
      return { kind: "controller", row: inspectController(state, mutation) };
    case "wipeDisk":
      return { kind: "disk", row: wipeDisk(state, mutation) };
    case "zeroFreeSpace":
      return { kind: "disk", row: zeroFreeSpace(state, mutation) };
    case "cordon":
      return { kind: "cordon", changed: changeCordon(state, mutation) };
  }
}

function provision(
  state: AdmissionState,
  mutation: Extract<Mutation, { kind: "provision" }>,
): LvolRow {
  const existing = state.lvols.get(mutation.id);
  if (existing !== undefined) return sameOrRefuse(state, existing, mutation.request);
  const { request, id } = mutation;
  const used = state.gone.get(id);
  if (used !== undefined) throw used.ours ? idRetired(id) : otherNode(id);
  const snapshot = state.snapshots.get(id);
  if (snapshot?.deleteRequestedTime !== undefined) throw idRetired(id);
  if (snapshot !== undefined) throw wrongKind("id", id, "a snapshot");
  const source = cloneSource(state, request);
  if (state.nodeCordoned) {
    const message = `node ${state.policy.nodeId} is cordoned and takes no new volumes`;
    throw new Refusal("CORDONED", message);
  }
  const exports = [...state.disks.values()].reduce((sum, disk) => sum + disk.lvolCount, 0);
  if (exports >= state.policy.maxExports) {
    throw new Refusal(
      "EXPORT_LIMIT",
      `the node has ${exports} exports; the limit is ${state.policy.maxExports}`,
      {
        quota: [
          { subject: "exports", description: `${exports} used, limit ${state.policy.maxExports}` },
        ],
      },
    );
  }
  const { disk, promisedBytes } = place(
    state.disks,
    {
      ...state.policy,
      orphanBytes: mutation.orphanBytes,
      freeClusters: mutation.freeClusters,
      discardGuard: mutation.discardGuard,
    },
    source === undefined ? request : { ...request, diskId: source.diskId },
  );
  const row = newLvolRow({
    id,
    nodeId: state.policy.nodeId,
    diskId: disk.id,
    familyRoot: source?.familyRoot ?? id,
    request,
    promisedBytes,
    labels: mutation.labels,
    nqn: volumeNqn(state.policy.nqnPrefix, id),
    actor: mutation.actor,
    traceparent: mutation.traceparent,
    revision: state.revision,
    now: state.now,
  });
  if (mutation.validateOnly) return row;
  state.lvols.set(id, row);
  state.disks.set(disk.id, {
    ...disk,
    promisedBytes: disk.promisedBytes + promisedBytes,
    lvolCount: disk.lvolCount + 1,
  });
  return row;
}

/** The existing row if the request equals the one that created it; throws a Refusal otherwise. */
function sameOrRefuse(state: AdmissionState, row: LvolRow, asked: CreationRequest): LvolRow {
  if (row.nodeId !== state.policy.nodeId) throw otherNode(row.id);
  const fields = differingFields(row.request, asked, row.diskId);
  if (row.deleteTime !== undefined || row.deleteRequestedTime !== undefined) {
    throw idRetired(row.id);
  }
  if (fields.length > 0) {
    throw new Refusal(
      "SPEC_MISMATCH",
      `volume ${row.id} exists with a different spec: ${fields.join(", ")}`,
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
  if (!sameLimits(was.qos ?? NO_LIMITS, asked.qos ?? NO_LIMITS)) fields.push("qos");
  return fields;
}

function requestDelete(
  state: AdmissionState,
  mutation: Extract<Mutation, { kind: "delete" }>,
): LvolRow | undefined {
  const row = state.lvols.get(mutation.id);
  const ofOtherNode =
    row === undefined
      ? state.gone.get(mutation.id)?.ours === false
      : row.nodeId !== state.policy.nodeId;
  if (ofOtherNode) throw otherNode(mutation.id);
  if (state.snapshots.has(mutation.id)) throw wrongKind("lvol_id", mutation.id, "a snapshot");
  // Deleting an id that no volume has succeeds and writes nothing, as CSI requires.
  if (row === undefined) return undefined;
  if (row.deleteTime !== undefined) return row;
  // A repeat is a new intent if it adds force, or if the deletion gave up.
  const addsForce = mutation.force && !row.deleteForced;
  if (row.deleteRequestedTime !== undefined && !addsForce && !row.failed) return row;
  const deleted: LvolRow = {
    ...row,
    ...newIntent(state, row, mutation),
    failed: false,
    deleteRequestedTime: row.deleteRequestedTime ?? state.now,
    ...(mutation.force && { deleteForced: true, deleteReason: mutation.reason }),
  };
  state.lvols.set(row.id, deleted);
  return deleted;
}

/**
 * Requests zeroing of the disk's free clusters. Changes nothing while a request is pending or when
 * the clusters are zeroed already.
 */
function zeroFreeSpace(
  state: AdmissionState,
  mutation: Extract<Mutation, { kind: "zeroFreeSpace" }>,
): DiskRow {
  const { id } = mutation;
  const disk = state.disks.get(id);
  if (disk === undefined) throw new Refusal("NOT_FOUND", `disk ${id} is not on this node`);
  if (disk.lvsUuid === undefined) {
    throw new Refusal("DISK_NOT_UP", `disk ${id} has no lvstore of this node`);
  }
  if (disk.freeSpace === "ZEROED" || disk.zeroRequestedTime !== undefined) return disk;
  if (mutation.discardsFree && !disk.discardZeroes) {
    const message =
      `hosts return clusters to disk ${id} by discards, so zeroing would not last: assert ` +
      `discard_zeroes with AdmitDisk, or end the exports of its thin volumes that Explain names`;
    throw new Refusal("DISCARD_NOT_ZEROING", message);
  }
  const asked: DiskRow = {
    ...disk,
    ...newIntent(state, disk, mutation),
    zeroRequestedTime: state.now,
  };
  state.disks.set(disk.id, asked);
  return asked;
}
