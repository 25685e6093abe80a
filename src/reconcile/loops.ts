// The table of contents of the agent: every loop that plans from a view, in dependency order.
//
// Two more parts work on the same objects and do not plan: disk-discover (disk/disks.ts) inserts
// the rows of disks, and verify (verify.ts) decides from observations when each object was checked
// once after start.
import { controllerTake } from "./controller/take.ts";
import { diskInit } from "./disk/init.ts";
import { adopt } from "./lvol/adopt.ts";
import { exportLoop } from "./lvol/export.ts";
import type { ControllerLoop, DiskLoop, SnapshotLoop, VolumeLoop } from "./loop.ts";
import { lvolDelete } from "./lvol/delete.ts";
import { provision } from "./lvol/provision.ts";
import { resize } from "./lvol/resize.ts";
import { snapshotCreate } from "./lvol/snapshot-create.ts";
import { snapshotDelete } from "./lvol/snapshot-delete.ts";

export const CONTROLLER_LOOPS: readonly ControllerLoop[] = [controllerTake];

export const DISK_LOOPS: readonly DiskLoop[] = [diskInit];

export const VOLUME_LOOPS: readonly VolumeLoop[] = [
  provision,
  adopt,
  exportLoop,
  resize,
  lvolDelete,
];

export const SNAPSHOT_LOOPS: readonly SnapshotLoop[] = [snapshotCreate, snapshotDelete];
