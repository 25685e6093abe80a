// What the driver has to know of volumes and of disks: how each is viewed, planned, acted on and
// recorded, and what an agent may do that does not lead or whose database is away.
import type { LvolRow } from "../model/lvol.ts";
import type { WriteMode } from "../store/fence.ts";
import type { Rows } from "../store/rows.ts";
import type { Writer } from "../store/writer.ts";
import type { DiskView } from "./disk/view.ts";
import { diskRecord } from "./disk/record.ts";
import type { Disks } from "./disk/disks.ts";
import type { Kind } from "./engine/driver.ts";
import { DISK_LOOPS, VOLUME_LOOPS } from "./loops.ts";
import { volumeRecord } from "./lvol/record.ts";
import { STEP_EFFECT, type DiskStep, type Step, type VolumeStep } from "./steps.ts";
import { performVolumeStep, type VolumeStepContext } from "./lvol/perform.ts";
import { volumeView, type VolumePlanView, type VolumeViewSource } from "./lvol/view.ts";

/** A step, or the writing of status columns after it. */
export type Act = Step["kind"] | "record";

export function permits(writeMode: WriteMode, act: Act): boolean {
  const effect = act === "record" ? "restore" : STEP_EFFECT[act];
  switch (effect) {
    case "observe":
      return true;
    case "restore":
      return writeMode !== "read-only";
    case "change":
      return writeMode === "read-write";
  }
}

function intentOf(row: Pick<LvolRow, "traceparent" | "generation" | "observedGeneration">) {
  const { traceparent, generation, observedGeneration } = row;
  return { traceparent, open: observedGeneration !== generation };
}

export function volumeKind(
  source: VolumeViewSource,
  writer: Writer,
  context: VolumeStepContext,
  permits: (act: Act) => boolean,
): Kind<VolumePlanView, VolumeStep> {
  return {
    name: "lvol",
    permits,
    loops: VOLUME_LOOPS,
    intent: ({ row }) => intentOf(row),
    changes: (act) => STEP_EFFECT[act] !== "observe",
    view: (id, moment) => {
      const row = source.rows.lvol(id);
      return row === undefined ? undefined : volumeView(source, row, moment);
    },
    gaveUp: ({ row }) => row.failed,
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
  permits: (act: Act) => boolean,
): Kind<DiskView, DiskStep> {
  return {
    name: "disk",
    permits,
    loops: DISK_LOOPS,
    intent: ({ row }) => intentOf(row),
    changes: (act) => STEP_EFFECT[act] !== "observe",
    view: (id, moment) => {
      const row = rows.disk(id);
      return row === undefined ? undefined : disks.view(row, moment);
    },
    gaveUp: ({ row }) => row.state === "FAILED" && row.observedGeneration === row.generation,
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
