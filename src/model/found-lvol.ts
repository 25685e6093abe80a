// Lvols as they are found on a target, and the rows that are made from them: what is on a disk says who is a
// clone of whom, and not which hosts may use it. Pure.
import { isUuid, volumeNqn } from "./identity.ts";
import { newLvolRow, NO_LIMITS, sameLimits, type LvolRow, type QosLimits } from "./lvol.ts";
import { newSnapshotRow, type SnapshotRow } from "./snapshot.ts";

export type FoundLvol = {
  readonly name: string;
  readonly uuid: string;
  readonly storeUuid: string;
  readonly sizeBytes: bigint;
  readonly thin: boolean;
  /** Undefined: unknown, as SPDK before 24.05 does not show it for thin lvols. */
  readonly allocatedClusters: bigint | undefined;
  readonly snapshot: boolean;
  /** Name of the snapshot that it is a clone of. */
  readonly parent: string | undefined;
  /** In force now; a restart of the target ends them. */
  readonly limits: QosLimits;
  /** The subsystem that exports it now. */
  readonly subsystem: FoundSubsystem | undefined;
};

/** A subsystem that hosts may connect to. */
export type FoundSubsystem = {
  readonly nqn: string;
  readonly serialNumber: string | undefined;
  readonly modelNumber: string | undefined;
  readonly hosts: readonly string[];
  readonly allowAnyHost: boolean;
};

export type Place = { readonly diskId: string; readonly familyRoot: string };

export type FoundBy = {
  readonly nodeId: string;
  readonly nqnPrefix: string;
  readonly now: Date;
  readonly actor: string;
  readonly labels: Readonly<Record<string, string>>;
};

/** Which of its clones is the volume that it was taken of is not written on the disk. */
export function foundSnapshotRow(
  { name: id, uuid, storeUuid, sizeBytes, parent }: FoundLvol,
  place: Place,
  { nodeId, now, actor, labels }: FoundBy,
): SnapshotRow {
  const row = newSnapshotRow({
    id,
    nodeId,
    ...place,
    sourceLvolId: undefined,
    adopted: false,
    promisedBytes: sizeBytes,
    labels,
    actor,
    traceparent: undefined,
    revision: 0n,
    now,
  });
  const parentId = idOf(parent);
  return { ...row, lvolUuid: uuid, lvsUuid: storeUuid, observedSizeBytes: sizeBytes, parentId };
}

/** Nobody may connect before AllowHost says who. */
export function foundLvolRow(
  lvol: FoundLvol,
  place: Place,
  { nodeId, nqnPrefix, now, actor, labels }: FoundBy,
): LvolRow {
  const { name: id, sizeBytes, thin, uuid, storeUuid, limits, subsystem } = lvol;
  const request = {
    sizeBytes,
    thin,
    diskId: undefined,
    sourceSnapshotId: undefined,
    hosts: [],
    allowAnyHost: false,
    qos: sameLimits(limits, NO_LIMITS) ? undefined : limits,
  };
  const ownNqn = volumeNqn(nqnPrefix, id);
  const row = newLvolRow({
    id,
    nodeId,
    ...place,
    request,
    promisedBytes: sizeBytes,
    labels,
    nqn: subsystem?.nqn ?? ownNqn,
    actor,
    traceparent: undefined,
    revision: 0n,
    now,
  });
  // A volume keeps what it was made with; other versions of the agent may have made it.
  const made = subsystem?.nqn === ownNqn ? subsystem : undefined;
  return {
    ...row,
    serialNumber: made?.serialNumber ?? row.serialNumber,
    modelNumber: made?.modelNumber ?? row.modelNumber,
    lvolUuid: uuid,
    lvsUuid: storeUuid,
    observedSizeBytes: sizeBytes,
    parentId: idOf(lvol.parent),
    unconfirmed: true,
  };
}

function idOf(name: string | undefined): string | undefined {
  return name !== undefined && isUuid(name) ? name : undefined;
}

/**
 * Families by the name of each member: the root that a row of a member names, else one of the names. That is
 * an id wherever a member has one as its name, as rows are made of no other.
 */
export function familyRoots(
  lvols: readonly FoundLvol[],
  known: ReadonlyMap<string, { readonly familyRoot: string }>,
): ReadonlyMap<string, string> {
  const parents = new Map(lvols.map(({ name, parent }) => [name, parent]));
  const topOf = (name: string): string => {
    const parent = parents.get(name);
    return parent === undefined || parent === name ? name : topOf(parent);
  };
  const rootOfTop = new Map<string, string>();
  for (const { name } of lvols) {
    const root = known.get(name)?.familyRoot;
    if (root !== undefined) rootOfTop.set(topOf(name), root);
  }
  for (const name of lvols.map((lvol) => lvol.name).toSorted()) {
    const top = topOf(name);
    if (!isUuid(top) && isUuid(name) && !rootOfTop.has(top)) rootOfTop.set(top, name);
  }
  return new Map(
    lvols.map(({ name }) => {
      const top = topOf(name);
      return [name, rootOfTop.get(top) ?? top];
    }),
  );
}
