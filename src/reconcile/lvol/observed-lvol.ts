// An lvol as read from the target, as an observation.
import type { ObservedLvol } from "../../model/lvol.ts";
import type { LvolBdev } from "../../spdk/replies-bdev.ts";
import { partsOf } from "../target/orphans.ts";

export function observedLvol({
  uuid,
  aliases,
  sizeBytes,
  lvol,
}: LvolBdev): Extract<ObservedLvol, { kind: "present" }> {
  return {
    kind: "present",
    uuid,
    lvsUuid: lvol.storeUuid,
    sizeBytes,
    thin: lvol.thin,
    allocatedClusters: lvol.allocatedClusters,
    parent: lvol.baseSnapshot,
    name: partsOf({ aliases }).name,
  };
}
