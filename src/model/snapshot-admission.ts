// Admission of intents about snapshots: Snapshot, Delete of a snapshot, and what a clone needs of its
// snapshot. Pure, as admission.ts.
import { discardRefusal } from "./discards.ts";
import { Refusal } from "./errors.ts";
import type { AdmissionState, Mutation } from "./admission.ts";
import type { DiskRow } from "./disk.ts";
import { newIntent, noVolume, refuseDeleting } from "./intent.ts";
import type { CreationRequest, LvolRow } from "./lvol.ts";
import { placeMore } from "./placement.ts";
import { clonesOf, deleteBlockers, newSnapshotRow, type SnapshotRow } from "./snapshot.ts";
import { idRetired, otherNode } from "./used-ids.ts";

type Of<Kind extends Mutation["kind"]> = Extract<Mutation, { kind: Kind }>;

/**
 * Takes a snapshot of a volume that has its data. What the volume may write again is promised to the
 * snapshot, as its clusters now belong to that.
 */
export function takeSnapshot(state: AdmissionState, mutation: Of<"snapshot">): SnapshotRow {
  const { id, sourceLvolId } = mutation;
  const existing = state.snapshots.get(id);
  if (existing !== undefined) return sameOrRefuse(existing, sourceLvolId);
  const volume = state.lvols.get(id);
  if (volume !== undefined) throw volumeHasId(volume);
  const used = state.gone.get(id);
  if (used !== undefined) throw used.ours ? idRetired(id) : otherNode(id);
  const source = sourceOf(state, sourceLvolId);
  const disk = state.disks.get(source.diskId);
  if (disk === undefined) throw new Refusal("DISK_NOT_UP", `disk ${source.diskId} is not known`);
  // The volume becomes a thin clone, also if it was thick.
  const { orphanBytes, discardGuard } = mutation;
  const refused = discardRefusal(disk, { ...state.policy, guard: discardGuard });
  if (refused !== undefined) throw refused;
  placeMore(disk, { ...state.policy, orphanBytes, discardGuard }, source.promisedBytes);
  const row = newSnapshotRow({
    id,
    nodeId: state.policy.nodeId,
    diskId: source.diskId,
    familyRoot: source.familyRoot,
    sourceLvolId,
    adopted: source.adopted,
    promisedBytes: source.promisedBytes,
    labels: mutation.labels,
    actor: mutation.actor,
    traceparent: mutation.traceparent,
    revision: state.revision,
    now: state.now,
  });
  state.snapshots.set(id, row);
  promise(state, disk, { bytes: row.promisedBytes, snapshots: 1 });
  return row;
}

function promise(
  state: AdmissionState,
  disk: DiskRow,
  { bytes, snapshots }: { readonly bytes: bigint; readonly snapshots: number },
): void {
  state.disks.set(disk.id, {
    ...disk,
    promisedBytes: disk.promisedBytes + bytes,
    snapshotCount: disk.snapshotCount + snapshots,
  });
}

function sameOrRefuse(row: SnapshotRow, sourceLvolId: string): SnapshotRow {
  if (row.deleteRequestedTime !== undefined) throw idRetired(row.id);
  if (row.sourceLvolId !== undefined && row.sourceLvolId !== sourceLvolId) {
    const message = `snapshot ${row.id} exists, of volume ${row.sourceLvolId}`;
    throw new Refusal("SPEC_MISMATCH", message, { metadata: { fields: "source_lvol_id" } });
  }
  return row;
}

function volumeHasId({ id, deleteRequestedTime }: LvolRow): Refusal {
  if (deleteRequestedTime !== undefined) return idRetired(id);
  const message = `${id} is the id of a volume; use a new id`;
  return new Refusal("SPEC_MISMATCH", message, { metadata: { fields: "id" } });
}

function sourceOf(state: AdmissionState, id: string): LvolRow {
  const source = state.lvols.get(id);
  if (source === undefined) {
    throw state.gone.get(id)?.ours === false
      ? otherNode(id)
      : noVolume(id, state.snapshots.has(id));
  }
  if (source.nodeId !== state.policy.nodeId) throw otherNode(id);
  if (source.deleteTime !== undefined) throw wasDeleted(`volume ${id}`);
  refuseDeleting(source);
  if (source.lvolUuid === undefined || source.cloning) {
    throw sourceNotUp(id, `volume ${id} is still being created`);
  }
  return source;
}

/** As once the row is compacted: the answer does not change with that. */
function wasDeleted(what: string): Refusal {
  return new Refusal("NOT_FOUND", `${what} was deleted`);
}

function sourceNotUp(id: string, message: string): Refusal {
  const preconditions = [{ subject: id, description: "has its data" }];
  return new Refusal("SOURCE_NOT_UP", message, { preconditions, retryAfterMs: 1_000 });
}

/**
 * A snapshot with two or more clones is not deleted, unless the caller wants it to go once at most one is
 * left. Undefined: there is none.
 */
export function deleteSnapshot(
  state: AdmissionState,
  mutation: Of<"deleteSnapshot">,
): SnapshotRow | undefined {
  const { id, deferred } = mutation;
  const row = state.snapshots.get(id);
  if (row === undefined) {
    if (state.gone.get(id)?.ours === false) throw otherNode(id);
    if (state.lvols.has(id)) throw wrongKind("snapshot_id", id, "a volume");
    return undefined;
  }
  if (row.deleteTime !== undefined) return row;
  if (row.deleteRequestedTime !== undefined && !row.failed) return row;
  const blockers = deleteBlockers(clonesOf(id, familyIn(state, row.familyRoot)));
  if (blockers.length > 0 && !deferred) throw hasClones(id, blockers);
  const deleted: SnapshotRow = {
    ...row,
    ...newIntent(state, row, mutation),
    failed: false,
    deleteRequestedTime: row.deleteRequestedTime ?? state.now,
    deleteDeferred: deferred,
  };
  state.snapshots.set(id, deleted);
  return deleted;
}

function familyIn(state: AdmissionState, root: string) {
  const ofFamily = ({ familyRoot }: Pick<LvolRow, "familyRoot">) => familyRoot === root;
  return {
    lvols: [...state.lvols.values()].filter(ofFamily),
    snapshots: [...state.snapshots.values()].filter(ofFamily),
  };
}

/** How many clones are named in a message; details have all of them. */
const NAMED = 5;

function hasClones(id: string, clones: readonly string[]): Refusal {
  const more = clones.length > NAMED ? ` and ${clones.length - NAMED} more` : "";
  const named = clones.slice(0, NAMED).join(", ");
  return new Refusal(
    "HAS_CLONES",
    `snapshot ${id} has ${clones.length} clones (${named}${more}); delete all but one of them ` +
      "first, or set deferred to delete it as soon as at most one is left",
    { metadata: { clones: clones.join(",") } },
  );
}

export function wrongKind(field: string, id: string, what: string): Refusal {
  const description = `${id} is the id of ${what}`;
  return new Refusal("INVALID_FIELD", `${field}: ${description}`, {
    fields: [{ field, description }],
  });
}

/** The snapshot that a clone is asked for of, which decides the disk. Throws a Refusal. */
export function cloneSource(
  state: AdmissionState,
  request: CreationRequest,
): SnapshotRow | undefined {
  const { sourceSnapshotId: id, sizeBytes, diskId } = request;
  if (id === undefined) return undefined;
  const row = state.snapshots.get(id);
  if (row === undefined) {
    if (state.lvols.has(id)) throw wrongKind("spec.source_snapshot_id", id, "a volume");
    throw state.gone.get(id)?.ours === false
      ? otherNode(id)
      : new Refusal("NOT_FOUND", `snapshot ${id} is not on this node`);
  }
  if (row.deleteTime !== undefined) throw wasDeleted(`snapshot ${id}`);
  if (row.deleteRequestedTime !== undefined) {
    throw new Refusal("ID_RETIRED", `snapshot ${id} is being deleted; name another one`);
  }
  const { lvolUuid, observedSizeBytes } = row;
  if (lvolUuid === undefined || observedSizeBytes === undefined) {
    throw sourceNotUp(id, `snapshot ${id} is not taken yet`);
  }
  if (diskId !== undefined && diskId !== row.diskId) {
    throw wrongValue("spec.disk_id", `a clone lies on the disk of its snapshot, ${row.diskId}`);
  }
  if (sizeBytes < observedSizeBytes) {
    const description = `${sizeBytes} bytes are less than the ${observedSizeBytes} bytes of the snapshot`;
    throw wrongValue("spec.size_bytes", description, "OUT_OF_RANGE");
  }
  return row;
}

function wrongValue(field: string, description: string, code?: "OUT_OF_RANGE"): Refusal {
  return new Refusal("INVALID_FIELD", `${field}: ${description}`, {
    ...(code === undefined ? {} : { code }),
    fields: [{ field, description }],
  });
}
