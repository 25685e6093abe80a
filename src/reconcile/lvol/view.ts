// The view of one volume that its loops plan from: its row, its observed state and its disk.
import { discardLimit, discardRefusal } from "../../model/discards.ts";
import type { DiskRow } from "../../model/disk.ts";
import type { VolumeView } from "../../model/lvol-state.ts";
import type { ListenAddress, LvolRow } from "../../model/lvol.ts";
import { leavesDirt, type PendingContext } from "../../model/pending-op.ts";
import { zeroesByItself } from "../../model/zeroing.ts";
import type { SnapshotRow } from "../../model/snapshot.ts";
import type { Rows } from "../../store/rows.ts";
import { diskFailure } from "../../model/seen-health.ts";
import type { SpaceThresholds } from "../../model/space.ts";
import { heldExport, isExposed, type HoldSource } from "../disk/held-exports.ts";
import { hostsMayFree, mayBeDirty, spaceOnTarget } from "../disk/free-space.ts";
import type { Slices } from "../disk/slices.ts";
import type { Moment } from "../engine/kind.ts";
import type { Observed } from "../target/observed.ts";
import type { UnknownOutcomes } from "../target/unknown-outcomes.ts";
import { familyView, type FamilyView } from "./family.ts";
import { isTooSmall } from "./size.ts";
import { unexport } from "./unexport.ts";
import { volumeWait } from "./wait.ts";
import { TARGET_AWAY } from "../../model/target-process.ts";

export type VolumePlanView = VolumeView & {
  /**
   * The volume is being deleted, and a host may be connected or about to come back: its export is
   * restored and kept until it is known that none is.
   */
  readonly restoreUntilUnexported: boolean;
  /** When restoreUntilUnexported may end by time alone; undefined: not by time. */
  readonly unexportDue: Date | undefined;
  readonly reconnectGraceOver: boolean;
  readonly now: Date;
  /** A step on this volume was dispatched and is not answered: the observed state may change. */
  readonly inFlight: boolean;
  /** For deciding whether a pending op of an earlier agent may still be running. */
  readonly pending: PendingContext;
  /**
   * The free clusters of the lvstore are known to be zeroed, or the isolation mode is `trusted`.
   */
  readonly clean: boolean;
  /** The release lets hosts free clusters of a thin volume, and the disk is not asserted to zero them. */
  readonly discardsNotZeroing: boolean;
  readonly disk: DiskRow | undefined;
  /** Hosts may return clusters to the store, by discards, with what stands in them. */
  readonly hostsMayFree: boolean;
  /** The agent zeroes free space without being asked. */
  readonly zeroesByItself: boolean;
  /** The limit of discards that a subsystem of the volume is made with; undefined: none. */
  readonly dmrsl: number | undefined;
  /**
   * A delete may have left old bytes in free clusters, and the disk's row does not record it yet.
   */
  readonly diskDoubtful: boolean;
  readonly family: FamilyView;
  /** The snapshot that the volume is to become a clone of. */
  readonly cloneOf: SnapshotRow | undefined;
  /** Its disk is to be released: it is not exported any more. */
  readonly releasing: boolean;
  /** Its disk was released, and has left the target with what is on it. */
  readonly diskReleased: boolean;
  /** The lvstore of the volume; undefined while it is not observed loaded in this incarnation. */
  readonly store: StoreView | undefined;
};

export type StoreView = {
  readonly uuid: string;
  readonly name: string;
  readonly clusterBytes: bigint;
};

/** The lvstore that the row of a disk names, if it is loaded. */
export function storeView(
  { rows, observed }: { readonly rows: Rows; readonly observed: Observed },
  diskId: string,
): StoreView | undefined {
  const uuid = rows.disk(diskId)?.lvsUuid;
  const loaded = observed.disk(diskId)?.store;
  if (observed.incarnation === undefined || uuid === undefined || loaded?.uuid !== uuid) {
    return undefined;
  }
  return { uuid, name: loaded.name, clusterBytes: loaded.clusterBytes };
}

export type VolumeViewSource = HoldSource & {
  readonly slices: Pick<Slices, "heldBytes">;
  readonly outcomes: UnknownOutcomes;
  /** How long hosts may take to come back after a restart of the target. */
  readonly reconnectGraceMs: number;
  readonly listenAddresses: () => readonly ListenAddress[];
  readonly spaceThresholds: SpaceThresholds;
  readonly pending: (now: Date) => PendingContext;
};

/** Why the disk of a volume or a snapshot is not ready, for people. */
export function diskReason(
  { diskId }: { readonly diskId: string },
  disk: Pick<DiskRow, "state" | "stateReason"> | undefined,
): string {
  const why = disk === undefined || disk.stateReason === "" ? "" : `: ${disk.stateReason}`;
  return `disk ${diskId} is ${disk?.state ?? "unknown"}${why}`;
}

/** It has left the target, and whatever lies on it is not on this node any more. */
export function isReleased(disk: DiskRow | undefined): boolean {
  return disk?.wanted === "release" && disk.state === "RELEASED";
}

function spaceOf({ observed, spaceThresholds, slices }: VolumeViewSource, disk: DiskRow) {
  return spaceOnTarget(disk, observed.disk(disk.id), spaceThresholds, slices.heldBytes(disk));
}

export function volumeView(source: VolumeViewSource, row: LvolRow, moment: Moment): VolumePlanView {
  const { rows, observed } = source;
  const disk = rows.disk(row.diskId);
  const connected = observed.targetAnswers;
  const store = storeView({ rows, observed }, row.diskId);
  const pending = source.pending(moment.now);
  const { sourceSnapshotId } = row.request;
  const volume = observed.volume(row.id);
  const takesClusters = row.lvolUuid === undefined || row.cloning || isTooSmall(row, volume);
  const dirty = takesClusters && mayBeDirty(rows, observed, row.diskId);
  const guard = observed.discardGuard;
  const view = {
    row,
    observed: volume,
    outcomeUnknown: source.outcomes.of(row.id),
    subsystemUnknown: source.outcomes.of(row.id, "subsystem"),
    ...unexport(row, volume, {
      ...moment,
      incarnation: observed.incarnation,
      reconnectGraceMs: source.reconnectGraceMs,
      listenAddresses: source.listenAddresses(),
      releasing: disk?.wanted === "release",
      monotonicMs: performance.now(),
    }),
    targetConnected: connected,
    diskReady: store !== undefined && disk?.wanted !== "release",
    releasing: disk?.wanted === "release",
    diskReleased: isReleased(disk),
    diskReason: connected ? diskReason(row, disk) : TARGET_AWAY,
    listenAddresses: source.listenAddresses(),
    space: disk && spaceOf(source, disk),
    diskFailure: diskFailure(disk),
    ...moment,
    pending,
    family: familyView(rows, row, pending),
    cloneOf:
      row.cloning && sourceSnapshotId !== undefined
        ? rows.snapshots.get(sourceSnapshotId)
        : undefined,
    clean: source.isolation === "trusted" || (disk?.freeSpace === "ZEROED" && !dirty),
    discardsNotZeroing:
      row.thin &&
      disk !== undefined &&
      discardRefusal(disk, { guard, isolation: source.isolation }) !== undefined,
    disk,
    zeroesByItself: zeroesByItself(source),
    hostsMayFree: takesClusters && hostsMayFree(rows, observed, row.diskId),
    dmrsl: discardLimit(guard, source.isolation, disk),
    diskDoubtful: disk?.freeSpace === "ZEROED" && leavesDirt(row, observed.incarnation),
    store,
    exposed: isExposed(source, row, volume),
    held: heldExport(source, { row, volume, now: moment.now }),
  };
  return { ...view, wait: volumeWait(view) };
}
