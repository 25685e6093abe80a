// What the volume loops see of one volume: its row, what the target showed, and the disk it lies on.
import { storeName } from "../model/identity.ts";
import type { ListenAddress, LvolRow, VolumeView } from "../model/lvol.ts";
import type { Rows } from "../store/rows.ts";
import type { Seen } from "./seen.ts";

export type VolumePlanView = VolumeView & {
  readonly now: Date;
  /** A step on this volume was handed out and is not answered: what is seen may be about to change. */
  readonly inFlight: boolean;
  /** The store to make the lvol on; undefined while the disk is not ready in this run. */
  readonly store:
    { readonly uuid: string; readonly name: string; readonly clusterBytes: bigint } | undefined;
};

export type VolumeViewSource = {
  readonly rows: Rows;
  readonly seen: Seen;
  readonly fleet: string;
  readonly listenAddresses: () => readonly ListenAddress[];
};

export function volumeView(
  source: VolumeViewSource,
  row: LvolRow,
  moment: { readonly now: Date; readonly inFlight: boolean },
): VolumePlanView {
  const { rows, seen } = source;
  const disk = rows.disk(row.diskId);
  const onTarget = seen.disk(row.diskId);
  const connected = seen.run !== undefined;
  const uuid = disk?.lvsUuid;
  const loaded = onTarget?.store;
  const store =
    connected && uuid !== undefined && loaded?.uuid === uuid
      ? { uuid, name: storeName(source.fleet, row.diskId), clusterBytes: loaded.clusterBytes }
      : undefined;
  return {
    row,
    seen: seen.volume(row.id),
    targetConnected: connected,
    diskReady: store !== undefined,
    diskReason: connected ? `disk ${row.diskId} is ${disk?.state ?? "unknown"}` : "target is away",
    listenAddresses: source.listenAddresses(),
    ...moment,
    store,
  };
}
