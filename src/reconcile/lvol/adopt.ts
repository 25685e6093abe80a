// The loop `adopt`: gives the lvol of a volume that was made from an orphan the volume's id as its name.
// Until then everything goes by its uuid, and rows that are lost could not be rebuilt from its name.
//
// It never renames an lvol that the agent has made, nor one that is being deleted.
import type { VolumeLoop } from "../loop.ts";
import type { VolumeStep } from "../steps.ts";
import type { VolumePlanView } from "./view.ts";

export const adopt: VolumeLoop = { name: "adopt", over: "lvol", plan };

function plan({ row, observed: { lvol }, store }: VolumePlanView): VolumeStep | undefined {
  if (!row.adopted || row.deleteRequestedTime !== undefined || store === undefined)
    return undefined;
  if (lvol?.kind !== "present" || lvol.uuid !== row.lvolUuid) return undefined;
  if (lvol.name === undefined || lvol.name === row.id) return undefined;
  return { kind: "rename-lvol", lvolUuid: lvol.uuid, lvsUuid: store.uuid, newName: row.id };
}
