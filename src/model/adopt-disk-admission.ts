// Admission of AdoptDisk, of a disk with a store that no row of this node knows. Pure, as admission.ts.
//
// First the disk is attached, so that its store can be read (inspectDisk): nothing is made or deleted on it.
// Then the store that was listed becomes one of this node (adoptDisk), and what lies in it gets rows as a
// rebuild makes them: nobody may connect before AllowHost says who. An lvol whose name is no id that can be
// given to it becomes an orphan.
import { ownSubjects, refusing, saysOfDisk } from "./disk-claim.ts";
import { namedDisk, refuseAgainst } from "./disk-refusals.ts";
import { isInspecting, type DiskRow } from "./disk.ts";
import { Refusal } from "./errors.ts";
import { evidenceOf, fingerprint, type Evidence } from "./evidence.ts";
import { newIntent, type Intent } from "./intent.ts";
import type { LvolRow } from "./lvol.ts";
import type { SnapshotRow } from "./snapshot.ts";
import { refuseWiping } from "./wipe.ts";

export type InspectDisk = {
  readonly kind: "inspectDisk";
  readonly serial: string;
  /** As seen within the call; undefined: nobody can look at it where it is. */
  readonly evidence: readonly Evidence[] | undefined;
};

export type AdoptDisk = {
  readonly kind: "adoptDisk";
  readonly serial: string;
  /** Of the store that the caller has seen the contents of, and that is loaded. */
  readonly storeUuid: string;
  /** What lies in it and is named by an id, as rows of this node. */
  readonly lvols: readonly LvolRow[];
  readonly snapshots: readonly SnapshotRow[];
  /** Which of these is exported as what, for people; empty: none. */
  readonly exported: readonly string[];
};

export type AdoptDiskState = {
  readonly policy: { readonly nodeId: string; readonly maxExports: number };
  readonly now: Date;
  readonly revision: bigint;
  readonly lvols: Map<string, LvolRow>;
  readonly snapshots: Map<string, SnapshotRow>;
  readonly gone: ReadonlyMap<string, unknown>;
  readonly disks: Map<string, DiskRow>;
};

/** Ids that the adoption may make rows of. */
export function idsInStore({ lvols, snapshots }: AdoptDisk): readonly string[] {
  return [...lvols, ...snapshots].map(({ id }) => id);
}

export function inspectDisk(
  state: Pick<AdoptDiskState, "now" | "revision" | "disks">,
  mutation: Intent & InspectDisk,
): DiskRow {
  const disk = foreignDisk(state, mutation);
  if (isInspecting(disk)) return disk;
  const { evidence } = mutation;
  if (evidence === undefined && disk.transport === "PCIe") {
    const message = `disk ${disk.id} cannot be looked at where it is: no kernel driver shows it`;
    throw new Refusal("HAS_EVIDENCE", message, { metadata: { evidence: "NOT_READY" } });
  }
  const found = evidence ?? [];
  refuseUse(state, disk, found);
  const isStore = ({ kind }: Evidence) => kind === "SPDK_BLOBSTORE";
  if (disk.transport === "PCIe" && !evidenceOf(disk, found).some(isStore)) {
    throw new Refusal("NO_STORE", `disk ${disk.id} holds no SPDK blobstore that could be adopted`);
  }
  const inspected: DiskRow = {
    ...disk,
    ...newIntent(state, disk, mutation),
    wanted: "inspect",
    admitted: true,
    admittedSerial: disk.serial,
    admittedEvidence: fingerprint(evidenceOf(disk, found)),
    admissionEnded: undefined,
  };
  state.disks.set(disk.id, inspected);
  return inspected;
}

export function adoptDisk(state: AdoptDiskState, mutation: Intent & AdoptDisk): DiskRow {
  const { id, storeUuid } = mutation;
  const known = state.disks.get(id);
  // The repeat of a call that was answered, or not.
  const isOurs = known?.adoptedStore === storeUuid || known?.lvsUuid === storeUuid;
  if (known !== undefined && isOurs && known.serial === mutation.serial) return known;
  const disk = foreignDisk(state, mutation);
  refuseExported(mutation);
  const other = [...state.disks.values()].find(
    ({ lvsUuid, adoptedStore }) => lvsUuid === storeUuid || adoptedStore === storeUuid,
  );
  if (other !== undefined) {
    const description = `its lvstore ${storeUuid} is that of disk ${other.serial} (${other.id})`;
    throw new Refusal("IN_USE", `disk ${id} is a copy: ${description}`, {
      preconditions: [{ subject: `disks/${id}`, description }],
    });
  }
  const isFree = ({ id: named }: { readonly id: string }) =>
    !state.lvols.has(named) && !state.snapshots.has(named) && !state.gone.has(named);
  const { revision } = state;
  const lvols = mutation.lvols.filter(isFree).map((row) => ({ ...row, revision }));
  const snapshots = mutation.snapshots.filter(isFree).map((row) => ({ ...row, revision }));
  refuseTooMany(state, lvols.length);
  for (const row of lvols) state.lvols.set(row.id, row);
  for (const row of snapshots) state.snapshots.set(row.id, row);
  const promised = [...lvols, ...snapshots].reduce((sum, row) => sum + row.promisedBytes, 0n);
  const adopted: DiskRow = {
    ...disk,
    ...newIntent(state, disk, mutation),
    wanted: "take",
    admitted: true,
    admittedSerial: disk.serial,
    admissionEnded: undefined,
    adoptedStore: storeUuid,
    promisedBytes: disk.promisedBytes + promised,
    lvolCount: disk.lvolCount + lvols.length,
    snapshotCount: disk.snapshotCount + snapshots.length,
  };
  state.disks.set(id, adopted);
  return adopted;
}

/** The disk of either intent: it has no store of this node. */
function foreignDisk(
  state: Pick<AdoptDiskState, "disks">,
  named: Intent & { readonly serial: string },
): DiskRow {
  const { id } = named;
  const disk = namedDisk(state, named);
  refuseWiping(disk);
  const own = disk.lvsUuid ?? disk.adoptedStore;
  if (own === undefined) return disk;
  const description = `it has the lvstore ${own} of this node: AdmitDisk takes it again`;
  throw new Refusal("IN_USE", `disk ${id}: ${description}`, {
    preconditions: [{ subject: `disks/${id}`, description }],
  });
}

/** Whose hosts use it is not known, so nothing of it becomes a volume that can be deleted here. */
function refuseExported({ id, exported }: Intent & AdoptDisk): void {
  if (exported.length === 0) return;
  throw new Refusal("IN_USE", `disk ${id}: ${exported.join("; ")}: end that first`, {
    preconditions: exported.map((description) => ({ subject: `disks/${id}`, description })),
  });
}

/** A store is what is to be adopted; everything else speaks against it. Lists all of it. */
function refuseUse(
  { disks }: Pick<AdoptDiskState, "disks">,
  disk: DiskRow,
  evidence: readonly Evidence[],
): void {
  const ours = new Set([...ownSubjects(disks.values()), `${disk.serial}/${disk.nsid}`]);
  refuseAgainst(disk, refusing(evidence, ours).filter(saysOfDisk));
}

function refuseTooMany({ disks, policy }: AdoptDiskState, added: number): void {
  const exports = [...disks.values()].reduce((sum, disk) => sum + disk.lvolCount, 0);
  if (exports + added <= policy.maxExports) return;
  const description = `${exports} used, ${added} in the store, limit ${policy.maxExports}`;
  throw new Refusal("EXPORT_LIMIT", `the node has no room for the volumes: ${description}`, {
    quota: [{ subject: "exports", description }],
  });
}
