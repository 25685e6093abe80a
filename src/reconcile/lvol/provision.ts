// provision: makes the lvol of every wanted volume that was never seen before.
//
// It never makes one again that existed and is gone: that is DATA_MISSING, reported and ended only by
// its reappearance or a delete. It never touches NVMe-oF.
import type { VolumeLoop } from "../loop.ts";
import type { VolumeStep } from "../steps.ts";
import type { VolumePlanView } from "./view.ts";

export const provision: VolumeLoop = { name: "provision", over: "lvol", plan };

function plan(view: VolumePlanView): VolumeStep | undefined {
  const { row, observed, store } = view;
  if (row.deleteRequestedTime !== undefined || store === undefined) return undefined;
  if (observed.lvol === undefined) return observeLvol(view, store);
  if (observed.lvol.kind === "present" || row.lvolUuid !== undefined) return undefined;
  // Admitted while the store was clean; made only if it still is.
  if (!view.clean) return undefined;
  return {
    kind: "create-lvol",
    lvolName: row.id,
    lvsUuid: store.uuid,
    sizeBytes: row.promisedBytes,
    thin: row.thin,
  };
}

/** Looks by uuid once one was seen: names may have been changed behind our back, uuids cannot. */
export function observeLvol(
  view: Pick<VolumePlanView, "row">,
  store: { readonly name: string; readonly uuid: string },
): VolumeStep {
  const { row } = view;
  return {
    kind: "observe-lvol",
    name: row.lvolUuid ?? `${store.name}/${row.id}`,
    lvsUuid: store.uuid,
  };
}
