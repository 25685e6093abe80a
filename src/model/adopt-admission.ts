// Admission of AdoptOrphan: an lvol that no row names becomes a volume. Pure, as admission.ts.
//
// The row has the lvol's uuid from the start, so no lvol is ever created for it; and nobody may connect
// before AllowHost says who.
import { promisableBytes, type DiskRow } from "./disk.ts";
import { Refusal } from "./errors.ts";
import { isUuid, volumeNqn } from "./identity.ts";
import type { Intent } from "./intent.ts";
import { newLvolRow, type LvolRow } from "./lvol.ts";
import { idRetired, otherNode, type UsedId } from "./used-ids.ts";

export type AdoptOrphan = {
  readonly kind: "adoptOrphan";
  /** The lvol as it was read from the target for this intent. */
  readonly lvol: {
    readonly uuid: string;
    readonly name: string;
    readonly lvsUuid: string;
    readonly diskId: string;
    readonly sizeBytes: bigint;
    readonly thin: boolean;
  };
  /** Allocated bytes of the other orphans of its disk. */
  readonly otherOrphanBytes: bigint;
};

/** The part of the admission state that this intent sees and changes. */
export type AdoptState = {
  readonly policy: {
    readonly nodeId: string;
    readonly nqnPrefix: string;
    readonly overcommit: number;
    readonly maxExports: number;
  };
  readonly nodeCordoned: boolean;
  readonly now: Date;
  readonly revision: bigint;
  readonly lvols: Map<string, LvolRow>;
  readonly snapshots: ReadonlyMap<string, unknown>;
  readonly gone: ReadonlyMap<string, UsedId>;
  readonly disks: Map<string, DiskRow>;
  /** The volume of this node whose lvol has the uuid, tombstones included. */
  readonly volumeOfLvol: (uuid: string) => LvolRow | undefined;
};

/** Ids that the intent has to know about: the volume's, and that in the lvol's name. */
export function idsOfAdoption({ id, lvol: { name } }: Intent & AdoptOrphan): readonly string[] {
  return isUuid(name) && name !== id ? [id, name] : [id];
}

export function adoptOrphan(state: AdoptState, mutation: Intent & AdoptOrphan): LvolRow {
  const { id, lvol } = mutation;
  const existing = state.lvols.get(id);
  if (existing !== undefined) return sameOrRefuse(state.policy.nodeId, existing, lvol.uuid);
  if (state.snapshots.has(id)) {
    const message = `${id} is the id of a snapshot; use a new id`;
    throw new Refusal("SPEC_MISMATCH", message, { metadata: { fields: "id" } });
  }
  const used = state.gone.get(id);
  if (used !== undefined) throw used.ours ? idRetired(id) : otherNode(id);
  refuseUnlessFree(state, mutation);
  refuseOtherName(state, mutation);
  const disk = diskFor(state, mutation);
  const { sizeBytes, thin, uuid, lvsUuid } = lvol;
  const request = {
    sizeBytes,
    thin,
    diskId: undefined,
    sourceSnapshotId: undefined,
    hosts: [],
    allowAnyHost: false,
    qos: undefined,
  };
  const row: LvolRow = {
    ...newLvolRow({
      id,
      nodeId: state.policy.nodeId,
      diskId: disk.id,
      request,
      promisedBytes: sizeBytes,
      labels: {},
      nqn: volumeNqn(state.policy.nqnPrefix, id),
      actor: mutation.actor,
      traceparent: mutation.traceparent,
      revision: state.revision,
      now: state.now,
    }),
    lvolUuid: uuid,
    lvsUuid,
    observedSizeBytes: sizeBytes,
    unconfirmed: true,
    adopted: true,
  };
  state.lvols.set(id, row);
  state.disks.set(disk.id, {
    ...disk,
    promisedBytes: disk.promisedBytes + sizeBytes,
    lvolCount: disk.lvolCount + 1,
  });
  return row;
}

/** The row of an earlier call for the same lvol; throws a Refusal for any other. */
export function sameOrRefuse(nodeId: string, row: LvolRow, uuid: string): LvolRow {
  if (row.nodeId !== nodeId) throw otherNode(row.id);
  if (row.deleteRequestedTime !== undefined) throw idRetired(row.id);
  if (row.lvolUuid === uuid) return row;
  const is = row.lvolUuid === undefined ? "no lvol yet" : `the lvol ${row.lvolUuid}`;
  throw new Refusal("SPEC_MISMATCH", `volume ${row.id} exists, with ${is}`, {
    metadata: { fields: "uuid" },
  });
}

function refuseUnlessFree(
  { volumeOfLvol, nodeCordoned, policy, disks }: AdoptState,
  { lvol: { uuid } }: AdoptOrphan,
): void {
  const owner = volumeOfLvol(uuid);
  if (owner !== undefined) {
    throw new Refusal("IN_USE", `lvol ${uuid} belongs to volume ${owner.id}`);
  }
  if (nodeCordoned) {
    throw new Refusal("CORDONED", `node ${policy.nodeId} is cordoned and takes no new volumes`);
  }
  const exports = [...disks.values()].reduce((sum, disk) => sum + disk.lvolCount, 0);
  if (exports < policy.maxExports) return;
  const description = `${exports} used, limit ${policy.maxExports}`;
  throw new Refusal("EXPORT_LIMIT", `the node has ${exports} exports: ${description}`, {
    quota: [{ subject: "exports", description }],
  });
}

/**
 * Names carry identity: an lvol that has an id as its name is adopted under that id, so that nobody takes
 * one volume for another. Another name is changed to the id, also one whose id cannot be used again.
 */
function refuseOtherName(state: AdoptState, { id, lvol }: Intent & AdoptOrphan): void {
  const { name } = lvol;
  const isUsed = [state.lvols, state.snapshots, state.gone].some((ids) => ids.has(name));
  if (name === id || !isUuid(name) || isUsed) return;
  const description = `must be ${name}, as the lvol has that id as its name`;
  throw new Refusal("INVALID_FIELD", `id: ${description}`, {
    fields: [{ field: "id", description }],
  });
}

function diskFor({ disks, policy }: AdoptState, { lvol, otherOrphanBytes }: AdoptOrphan): DiskRow {
  const disk = disks.get(lvol.diskId);
  if (disk === undefined || disk.lvsUuid !== lvol.lvsUuid) {
    throw new Refusal("NOT_FOUND", `lvstore ${lvol.lvsUuid} is not one of this node`);
  }
  if (disk.cordoned) {
    throw new Refusal("CORDONED", `disk ${disk.id} is cordoned and takes no new volumes`);
  }
  const total = (disk.totalClusters ?? 0n) * (disk.clusterBytes ?? 0n);
  const most = promisableBytes(disk, policy.overcommit);
  const limit = lvol.thin || most < total ? most : total;
  const left = limit - disk.promisedBytes - otherOrphanBytes;
  if (lvol.sizeBytes <= left) return disk;
  const description = `asked ${lvol.sizeBytes} bytes, ${left > 0n ? left : 0n} bytes left`;
  throw new Refusal(
    "NO_CAPACITY",
    `disk ${disk.id} has not that much left to promise: ${description}`,
    {
      quota: [{ subject: `disks/${disk.id}`, description }],
    },
  );
}
