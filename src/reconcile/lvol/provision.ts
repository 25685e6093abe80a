// The loop `provision`: creates the lvol of a volume whose lvol was never observed, and makes it a clone if
// it is to be one.
//
// It never creates an lvol again that existed and is gone: the volume is DATA_MISSING until the
// lvol reappears or the volume is deleted. Nor does it create one for a row of an older database, as
// one may have been made since. It never touches NVMe-oF.
import { cloneStep } from "./clone.ts";
import type { VolumeLoop } from "../loop.ts";
import type { VolumeStep } from "../steps.ts";
import type { VolumePlanView } from "./view.ts";

export const provision: VolumeLoop = { name: "provision", over: "lvol", plan };

function plan(view: VolumePlanView): VolumeStep | undefined {
  const { row, observed, store } = view;
  if (store === undefined) return undefined;
  // The export of a volume that is being deleted may have to be restored, which takes its lvol.
  if (row.deleteRequestedTime !== undefined && !view.restoreUntilUnexported) return undefined;
  if (observed.lvol === undefined) return observeLvol(view, store);
  if (observed.lvol.kind === "present") {
    return row.cloning ? cloneStep(view, observed.lvol) : undefined;
  }
  if (row.lvolUuid !== undefined) return undefined;
  if (row.maybeMade) return undefined;
  // The volume was admitted while the lvstore was clean, and on another release of SPDK perhaps.
  if (view.wait !== undefined) return undefined;
  const lvol = { kind: "create-lvol", lvolName: row.id, lvsUuid: store.uuid } as const;
  if (!row.cloning) return { ...lvol, sizeBytes: row.promisedBytes, thin: row.thin };
  const sizeBytes = view.cloneOf?.observedSizeBytes;
  return sizeBytes === undefined ? undefined : { ...lvol, sizeBytes, thin: true };
}

/**
 * Reads the lvol by uuid once the row has one, else by alias: a name can be changed, a uuid not.
 */
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
