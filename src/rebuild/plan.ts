// Plans a rebuild: a pure function from what a target holds to the rows to write. It only adds:
// objects that have a row keep it, and objects that are not certainly this node's are listed and
// get no row.
import { newDiskRow, type DiskRow } from "../model/disk.ts";
import {
  familyRoots,
  foundLvolRow,
  foundSnapshotRow,
  type FoundLvol,
} from "../model/found-lvol.ts";
import { diskId, fleetHash, isUuid, parseStoreName } from "../model/identity.ts";
import type { LvolRow } from "../model/lvol.ts";
import type { SnapshotRow } from "../model/snapshot.ts";
import type { FoundDisk } from "../reconcile/target/disks-on-target.ts";
import type { ObservedStore } from "../reconcile/target/observed-disk.ts";
import type { Found } from "./found.ts";
import { compareHosts, type ComparedHosts } from "./hosts.ts";

export type RebuildPlan = {
  readonly disks: readonly DiskRow[];
  readonly lvols: readonly LvolRow[];
  readonly snapshots: readonly SnapshotRow[];
  /** Volumes that have a row and are larger on the target: they were grown since. */
  readonly grown: readonly GrownLvol[];
  /** Hosts that the row, or the target, does not confirm. */
  readonly hosts: readonly ComparedHosts[];
  /** The objects that get no row, and why: one line each. */
  readonly left: readonly string[];
};

export type GrownLvol = { readonly id: string; readonly sizeBytes: bigint };

export type RebuildContext = {
  readonly nodeId: string;
  readonly fleet: string;
  readonly nqnPrefix: string;
  readonly now: Date;
  /** Ids of the disks whose rows name an lvstore. */
  readonly knownStores: ReadonlySet<string>;
  /** The volumes that have a row. */
  readonly knownLvols: ReadonlyMap<string, LvolRow>;
  readonly knownSnapshots: ReadonlyMap<string, SnapshotRow>;
  /** The rows are those of a database that is older than what the node remembers. */
  readonly older: boolean;
  /** Uuids of lvols of deleted volumes, whose rows are compacted. */
  readonly deletedLvols: ReadonlySet<string>;
};

export function planRebuild(found: Found, context: RebuildContext): RebuildPlan {
  const disks: DiskRow[] = [];
  const lvols: LvolRow[] = [];
  const snapshots: SnapshotRow[] = [];
  const left: string[] = [];
  const by = { ...context, actor: "rebuild", labels: { rebuilt: context.now.toISOString() } };
  for (const disk of found.disks) {
    const { store } = disk;
    // It was not read (unread.ts).
    if (store === undefined && context.knownStores.has(disk.id)) continue;
    const foreign =
      store === undefined ? "holds no lvstore" : foreignStoreReason(disk, store.name, context);
    if (store === undefined || foreign !== undefined) {
      left.push(`disk ${disk.serial}: ${foreign}`);
      continue;
    }
    const id = diskId(disk);
    const onDisk = found.lvols.filter(({ storeUuid }) => storeUuid === store.uuid);
    const roots = familyRoots(onDisk, knownMembers(context));
    for (const lvol of onDisk) {
      const why = reasonForNoRow(lvol, context);
      const place = { diskId: id, familyRoot: roots.get(lvol.name) ?? lvol.name };
      if (why !== undefined) left.push(`lvol ${store.name}/${lvol.name}: ${why}`);
      else if (lvol.snapshot) snapshots.push(foundSnapshotRow(lvol, place, by));
      else lvols.push(foundLvolRow(lvol, place, by));
    }
    if (!context.knownStores.has(id)) disks.push(diskRow(disk, store, context));
  }
  const { knownLvols, older } = context;
  return {
    disks,
    lvols,
    snapshots,
    grown: older ? found.lvols.flatMap((lvol) => grownLvol(lvol, knownLvols.get(lvol.name))) : [],
    hosts: compareHosts([...knownLvols.values(), ...lvols], found.subsystems, older),
    left,
  };
}

function knownMembers({ knownLvols, knownSnapshots }: RebuildContext) {
  return new Map<string, { readonly familyRoot: string }>([...knownLvols, ...knownSnapshots]);
}

/** Volumes only grow: of two sizes of one lvol the larger one is the later one. */
function grownLvol(
  { name: id, uuid, sizeBytes }: FoundLvol,
  row: LvolRow | undefined,
): readonly GrownLvol[] {
  if (row === undefined || row.deleteTime !== undefined) return [];
  const isIts = row.lvolUuid === undefined || row.lvolUuid === uuid;
  return isIts && sizeBytes > row.promisedBytes ? [{ id, sizeBytes }] : [];
}

/** Why no rows may be made from an lvstore; undefined if they may. */
function foreignStoreReason(
  disk: FoundDisk,
  name: string,
  { fleet }: RebuildContext,
): string | undefined {
  const parsed = parseStoreName(name);
  if (parsed?.fleet !== fleetHash(fleet)) return `holds lvstore ${name} of another fleet`;
  if (parsed.diskId !== diskId(disk)) return `holds a copy of the lvstore of disk ${parsed.diskId}`;
  return undefined;
}

function reasonForNoRow({ name, uuid }: FoundLvol, context: RebuildContext): string | undefined {
  const { knownLvols, knownSnapshots, deletedLvols } = context;
  if (knownLvols.has(name) || knownSnapshots.has(name)) return "already has a row";
  if (deletedLvols.has(uuid)) return "belongs to a deleted volume: the agent deletes it";
  if (!isUuid(name)) return "is an orphan: its name is not a volume id";
  return undefined;
}

/** Free space is UNKNOWN: deletes may have been running when the rows were lost. */
function diskRow(disk: FoundDisk, store: ObservedStore, { nodeId, now }: RebuildContext): DiskRow {
  const { serial, model, nsid, trtype: transport, address, sizeBytes, blockSize } = disk;
  const local = transport === "PCIe";
  const driver = local ? "vfio-pci" : undefined;
  const { controllerName } = disk;
  const observed = {
    serial,
    model,
    nsid,
    transport,
    address,
    sizeBytes,
    blockSize,
    controllerName,
  };
  return {
    ...newDiskRow(nodeId, { ...observed, driver }, now),
    admitted: true,
    admittedSerial: serial,
    state: "CLAIMING",
    stateReason: "rebuilt",
    lvsName: store.name,
    lvsUuid: store.uuid,
    clusterBytes: store.clusterBytes,
    totalClusters: store.totalClusters,
    freeClusters: store.freeClusters,
    evidenceFingerprint: "",
  };
}
