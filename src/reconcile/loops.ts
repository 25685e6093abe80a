// The table of contents of the agent: every loop that plans from a view, in dependency order.
//
// disk-discover (disks.ts) makes the rows that these work on, and verify (verify.ts) is these same
// loops once, at start.
import { diskInit } from "./disk/init.ts";
import { exportLoop } from "./lvol/export.ts";
import type { DiskLoop, VolumeLoop } from "./loop.ts";
import { lvolDelete } from "./lvol/delete.ts";
import { provision } from "./lvol/provision.ts";

export const DISK_LOOPS: readonly DiskLoop[] = [diskInit];

export const VOLUME_LOOPS: readonly VolumeLoop[] = [provision, exportLoop, lvolDelete];
