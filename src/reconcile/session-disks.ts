// What the session with the target does to disks.
import type { Disks } from "./disk/disks.ts";
import type { SharedParts } from "./shared-parts.ts";
import type { TargetSessionOptions } from "./target/session-options.ts";

export function sessionDisks(
  disks: Disks,
  { slices, rows }: SharedParts,
  wake: (id: string) => void,
): TargetSessionOptions["disks"] {
  return {
    scan: (bdevs) => disks.scanTargetDisks(bdevs),
    apply: (found) => disks.applyTargetScan(found),
    applySlices: (lvols) => {
      for (const id of slices.applyScan(rows, lvols)) wake(id);
    },
    ensureFabricDisksAttached: (found) => disks.ensureFabricDisksAttached(found),
  };
}
