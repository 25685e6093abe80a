// Which rows to make of what a target holds: a pure function. It only ever adds; what a row is there for
// already is left as it is, and what is not surely ours is listed and left alone.
import type { DiskRow } from "../model/disk.ts";
import { diskId, fleetHash, isUuid, parseStoreName, volumeNqn } from "../model/identity.ts";
import type { LvolRow } from "../model/lvol.ts";
import { newDiskRow } from "../reconcile/disk/discover.ts";
import type { FoundDisk } from "../reconcile/disk/disks-on-target.ts";
import type { ObservedStore } from "../reconcile/target/observed.ts";
import type { Found, FoundLvol } from "./found.ts";

export type RebuildPlan = {
  readonly disks: readonly DiskRow[];
  readonly lvols: readonly LvolRow[];
  /** What gets no row, and why: a sentence each. */
  readonly left: readonly string[];
};

export type RebuildContext = {
  readonly nodeId: string;
  readonly fleet: string;
  readonly nqnPrefix: string;
  readonly now: Date;
  /** Whose rows name a store. */
  readonly knownStores: ReadonlySet<string>;
  readonly knownLvols: ReadonlySet<string>;
};

export function planRebuild(found: Found, context: RebuildContext): RebuildPlan {
  const disks: DiskRow[] = [];
  const lvols: LvolRow[] = [];
  const left: string[] = [];
  for (const disk of found.disks) {
    const { store } = disk;
    const foreign =
      store === undefined ? "holds no store" : foreignStoreReason(disk, store.name, context);
    if (store === undefined || foreign !== undefined) {
      left.push(`disk ${disk.serial}: ${foreign}`);
      continue;
    }
    const id = diskId(disk);
    const onDisk = found.lvols.filter(({ storeUuid }) => storeUuid === store.uuid);
    const rows = onDisk.flatMap((lvol) => {
      const why = noRow(lvol, context);
      if (why !== undefined) left.push(`lvol ${store.name}/${lvol.name}: ${why}`);
      return why === undefined ? [lvolRow(lvol, id, context)] : [];
    });
    lvols.push(...rows);
    if (!context.knownStores.has(id)) disks.push(diskRow(disk, store, context));
  }
  return { disks, lvols, left };
}

/** Why a store is not this node's to take rows from. */
function foreignStoreReason(
  disk: FoundDisk,
  name: string,
  { fleet }: RebuildContext,
): string | undefined {
  const parsed = parseStoreName(name);
  if (parsed?.fleet !== fleetHash(fleet)) return `holds the store ${name} of another fleet`;
  if (parsed.diskId !== diskId(disk)) return `holds a copy of the store of disk ${parsed.diskId}`;
  return undefined;
}

function noRow({ name, snapshot, clone }: FoundLvol, context: RebuildContext): string | undefined {
  if (context.knownLvols.has(name)) return "has a row";
  if (!isUuid(name)) return "is not named by a volume's id; an orphan";
  if (snapshot || clone) return "is part of a snapshot family, which cannot be rebuilt yet";
  return undefined;
}

function lvolRow(lvol: FoundLvol, onDisk: string, context: RebuildContext): LvolRow {
  const { nodeId, nqnPrefix, now } = context;
  const { name: id, sizeBytes, thin, uuid, storeUuid, nqn } = lvol;
  return {
    id,
    nodeId,
    diskId: onDisk,
    request: {
      sizeBytes,
      thin,
      diskId: undefined,
      sourceSnapshotId: undefined,
      hosts: [],
      allowAnyHost: false,
      qos: undefined,
    },
    sizeBytes,
    promisedBytes: sizeBytes,
    thin,
    hosts: [],
    allowAnyHost: false,
    qos: undefined,
    labels: { rebuilt: now.toISOString() },
    nqn: nqn ?? volumeNqn(nqnPrefix, id),
    generation: 1n,
    deleteRequestedTime: undefined,
    deleteForced: false,
    traceparent: undefined,
    observedGeneration: 0n,
    lvolUuid: uuid,
    lvsUuid: storeUuid,
    observedSizeBytes: sizeBytes,
    exported: false,
    pendingOp: undefined,
    unconfirmed: true,
    lastError: undefined,
    failed: false,
    attempt: 0,
    nextTryTime: undefined,
    revision: 0n,
    createTime: now,
    updateTime: now,
    deleteTime: undefined,
  };
}

/** Its free space is UNKNOWN: nobody knows what was being deleted when the rows were lost. */
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
    originalDriver: local ? "nvme" : undefined,
    lvsName: store.name,
    lvsUuid: store.uuid,
    clusterBytes: store.clusterBytes,
    totalClusters: store.totalClusters,
    freeClusters: store.freeClusters,
    evidenceFingerprint: "",
  };
}
