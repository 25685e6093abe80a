// What the volume loops see of one volume: its row, what the target showed, and the disk it lies on.
import type { ListenAddress, LvolRow, VolumeView } from "../../model/lvol.ts";
import { leavesDirt, type PendingContext } from "../../model/pending-op.ts";
import type { Rows } from "../../store/rows.ts";
import type { Observed } from "../target/observed.ts";

export type VolumePlanView = VolumeView & {
  readonly now: Date;
  /** A step on this volume was handed out and is not answered: what is seen may be about to change. */
  readonly inFlight: boolean;
  /** Who asks, for what earlier agents may have left running. */
  readonly pending: PendingContext;
  /** Free clusters of the store are zero as far as is known, or tenants trust each other. */
  readonly clean: boolean;
  /** A delete may have left old bytes in free clusters, and the disk's row does not say so yet. */
  readonly diskDoubtful: boolean;
  /** The store to make the lvol on; undefined while the disk is not ready in this run. */
  readonly store:
    { readonly uuid: string; readonly name: string; readonly clusterBytes: bigint } | undefined;
};

export type VolumeViewSource = {
  readonly rows: Rows;
  readonly observed: Observed;
  readonly listenAddresses: () => readonly ListenAddress[];
  readonly isolation: "strict" | "trusted";
  readonly pending: (now: Date) => PendingContext;
};

/** Whether a delete on this disk may have left its clusters as they were (DESIGN 3.7). */
export function mayBeDirty(rows: Rows, diskId: string, incarnation: string | undefined): boolean {
  for (const id of rows.pendingIdsOn(diskId)) {
    if (leavesDirt(rows.lvol(id)?.pendingOp, incarnation)) return true;
  }
  return false;
}

export function volumeView(
  source: VolumeViewSource,
  row: LvolRow,
  moment: { readonly now: Date; readonly inFlight: boolean },
): VolumePlanView {
  const { rows, observed } = source;
  const disk = rows.disk(row.diskId);
  const onTarget = observed.disk(row.diskId);
  const connected = observed.incarnation !== undefined;
  const uuid = disk?.lvsUuid;
  const loaded = onTarget?.store;
  const dirty = row.lvolUuid === undefined && mayBeDirty(rows, row.diskId, observed.incarnation);
  const store =
    connected && uuid !== undefined && loaded?.uuid === uuid
      ? { uuid, name: loaded.name, clusterBytes: loaded.clusterBytes }
      : undefined;
  return {
    row,
    observed: observed.volume(row.id),
    targetConnected: connected,
    diskReady: store !== undefined,
    diskReason: connected ? `disk ${row.diskId} is ${disk?.state ?? "unknown"}` : "target is away",
    listenAddresses: source.listenAddresses(),
    ...moment,
    pending: source.pending(moment.now),
    clean: source.isolation === "trusted" || (disk?.freeSpace === "ZEROED" && !dirty),
    diskDoubtful: disk?.freeSpace === "ZEROED" && leavesDirt(row.pendingOp, observed.incarnation),
    store,
  };
}
