// What the driver has to know of volumes and of disks: how each is viewed, planned, acted on and
// recorded, and what an agent may do that does not lead or whose database is away.
import type { LvolRow } from "../model/lvol.ts";
import type { Allowed } from "../store/fence.ts";
import type { Rows } from "../store/rows.ts";
import type { Writer } from "../store/writer.ts";
import type { DiskView } from "./disk/view.ts";
import { diskRecord } from "./disk/record.ts";
import type { Disks } from "./disk/disks.ts";
import type { Kind } from "./engine/driver.ts";
import { DISK_LOOPS, VOLUME_LOOPS } from "./loops.ts";
import { volumeRecord } from "./lvol/record.ts";
import type { DiskStep, VolumeStep } from "./steps.ts";
import { performVolumeStep, type VolumeStepContext } from "./lvol/perform.ts";
import { volumeView, type VolumePlanView, type VolumeViewSource } from "./lvol/view.ts";

const LOOKS: readonly string[] = ["look-lvol", "look-subsystem"] satisfies VolumeStep["kind"][];

/** What an agent may do whose database is away: bring back what was wanted and is gone. */
const RESTORING: readonly string[] = [
  "record",
  "prepare-export",
  "adjust-export",
  "add-namespace",
  "attach-disk",
] satisfies (VolumeStep["kind"] | DiskStep["kind"] | "record")[];

export function mayDo(allowed: Allowed, act: string): boolean {
  if (LOOKS.includes(act) || allowed === "change") return true;
  return allowed === "restore" && RESTORING.includes(act);
}

function intentOf(row: Pick<LvolRow, "traceparent" | "generation" | "observedGeneration">) {
  const { traceparent, generation, observedGeneration } = row;
  return { traceparent, open: observedGeneration !== generation };
}

export function volumeKind(
  source: VolumeViewSource,
  writer: Writer,
  context: VolumeStepContext,
  may: (act: string) => boolean,
): Kind<VolumePlanView, VolumeStep> {
  return {
    name: "lvol",
    may,
    loops: VOLUME_LOOPS,
    intent: ({ row }) => intentOf(row),
    changes: (act) => !LOOKS.includes(act),
    view: (id, moment) => {
      const row = source.rows.lvol(id);
      return row === undefined ? undefined : volumeView(source, row, moment);
    },
    perform: (view, step) => performVolumeStep(context, view, step),
    record: (view) => {
      const patch = volumeRecord(view);
      return patch === undefined ? undefined : writer.recordLvol(view.row, patch);
    },
    recordFailure: ({ row }, failure) =>
      writer.recordLvol(row, {
        lastError: failure.message,
        attempt: failure.attempt,
        nextTryTime: failure.fatal ? undefined : failure.nextTryTime,
        ...(failure.fatal ? { failed: true } : {}),
      }),
  };
}

export function diskKind(
  disks: Disks,
  rows: Rows,
  writer: Writer,
  may: (act: string) => boolean,
): Kind<DiskView, DiskStep> {
  return {
    name: "disk",
    may,
    loops: DISK_LOOPS,
    intent: ({ row }) => intentOf(row),
    changes: () => true,
    view: (id, moment) => {
      const row = rows.disk(id);
      return row === undefined ? undefined : disks.view(row, moment);
    },
    perform: (view, step) => disks.perform(view, step),
    record: (view) => {
      const patch = diskRecord(view);
      return patch === undefined ? undefined : writer.recordDisk(view.row, patch);
    },
    recordFailure: ({ row }, failure) =>
      writer.recordDisk(row, {
        lastError: failure.message,
        attempt: failure.attempt,
        nextTryTime: failure.fatal ? undefined : failure.nextTryTime,
        ...(failure.fatal
          ? {
              state: "FAILED" as const,
              stateReason: failure.message,
              observedGeneration: row.generation,
            }
          : {}),
      }),
  };
}
