// The driver's `Kind` for volumes and for disks: how each is viewed, planned, acted on and
// recorded; and which acts each write mode permits.
import { addressText } from "../model/address.ts";
import { lvolState, type LvolState } from "../model/lvol-state.ts";
import type { ControllerRow } from "../model/controller.ts";
import type { LvolRow } from "../model/lvol.ts";
import { nextLook } from "../model/zeroing-hold.ts";
import type { WriteMode } from "../store/fence.ts";
import type { Rows } from "../store/rows.ts";
import type { Writer } from "../store/writer.ts";
import { snapshotState, type SnapshotState } from "../model/snapshot.ts";
import { isOfDisk, type Wait } from "../model/wait.ts";
import { isOtherDrive } from "./controller/closure-rules.ts";
import { controllerRecord } from "./controller/record.ts";
import type { ControllerView } from "./controller/view.ts";
import type { DiskView } from "./disk/view.ts";
import { diskRecord } from "./disk/record.ts";
import type { Disks } from "./disk/disks.ts";
import type { Kind } from "./engine/kind.ts";
import { CONTROLLER_LOOPS, DISK_LOOPS, SNAPSHOT_LOOPS, VOLUME_LOOPS } from "./loops.ts";
import { volumeRecord } from "./lvol/record.ts";
import {
  STEP_EFFECT,
  STEP_SENDS,
  type ControllerStep,
  type DiskStep,
  type SnapshotStep,
  type Step,
  type VolumeStep,
} from "./steps.ts";
import { performVolumeStep } from "./lvol/perform.ts";
import { performSnapshotStep, type SnapshotStepContext } from "./lvol/perform-snapshot.ts";
import type { VolumeStepContext } from "./lvol/performed-step.ts";
import { snapshotRecord } from "./lvol/snapshot-record.ts";
import { snapshotView, type SnapshotPlanView } from "./lvol/snapshot-view.ts";
import { volumeView, type VolumePlanView, type VolumeViewSource } from "./lvol/view.ts";

/** A step, or recording status columns in a row. */
export type Act = Step["kind"] | "record";

export function permits(writeMode: WriteMode, act: Act): boolean {
  // Nothing can be recorded while the database is away; all objects are woken when it is back.
  const effect = act === "record" ? "change" : STEP_EFFECT[act];
  switch (effect) {
    case "observe":
      return true;
    case "restore":
      return writeMode !== "read-only";
    case "change":
      return writeMode === "read-write";
  }
}

function intentOf(
  row: Pick<LvolRow | ControllerRow, "traceparent" | "generation" | "observedGeneration">,
) {
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
    sends: (act) => STEP_SENDS[act],
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
    part: partOf,
    recordedFailures: ({ row }) => row.failures,
    outlives: (view, loop) => isOutlived(view, loop) || isOver(lvolState(view)),
    wakeTime: ({ unexportDue, held, now }) => earlier(unexportDue, held && nextLook(held, now)),
    recordFatal: ({ row, failures }, lastError) =>
      writer.recordLvol(row, { failed: true, failures, lastError, nextTryTime: undefined }),
  };
}

function earlier(a: Date | undefined, b: Date | undefined): Date | undefined {
  return a === undefined || (b !== undefined && b < a) ? b : a;
}

function isOver(state: LvolState | SnapshotState): boolean {
  return state === "UP" || state === "DELETED";
}

/** A wait for the disk: what the loop has met before says nothing of it. */
function isOutlived({ wait }: { readonly wait: Wait | undefined }, loop: string): boolean {
  return wait !== undefined && isOfDisk(wait) && wait.loop === loop;
}

/** The parts of an export are changed independently of each other. */
function partOf(step: VolumeStep): string | undefined {
  switch (step.kind) {
    case "allow-host":
    case "deny-host":
      return step.host;
    case "add-listener":
    case "remove-listener":
      return addressText(step.address);
    case "add-namespace":
      return "1";
    case "set-any-host":
      return "*";
    case "set-qos":
      return "qos";
    case "observe-lvol":
    case "observe-subsystem":
    case "create-lvol":
    case "set-parent":
    case "resize-lvol":
    case "inflate-lvol":
    case "prepare-export":
    case "end-export":
    case "record-lvol":
    case "delete-lvol":
    case "rename-lvol":
      return undefined;
  }
}

export function snapshotKind(
  source: VolumeViewSource,
  writer: Writer,
  context: SnapshotStepContext,
  permits: (act: Act) => boolean,
): Kind<SnapshotPlanView, SnapshotStep> {
  return {
    name: "snapshot",
    permits,
    loops: SNAPSHOT_LOOPS,
    intent: ({ row }) => intentOf(row),
    changes: (act) => STEP_EFFECT[act] !== "observe",
    sends: (act) => STEP_SENDS[act],
    view: (id, moment) => {
      const row = source.rows.snapshots.get(id);
      return row === undefined ? undefined : snapshotView(source, row, moment);
    },
    gaveUp: ({ row }) => row.failed,
    perform: (view, step) => performSnapshotStep(context, view, step),
    record: (view) => {
      const patch = snapshotRecord(view);
      return patch === undefined ? undefined : writer.recordSnapshot(view.row, patch);
    },
    part: () => undefined,
    recordedFailures: ({ row }) => row.failures,
    outlives: (view, loop) => isOutlived(view, loop) || isOver(snapshotState(view)),
    wakeTime: () => undefined,
    recordFatal: ({ row, failures }, lastError) =>
      writer.recordSnapshot(row, { failed: true, failures, lastError, nextTryTime: undefined }),
  };
}

export function controllerKind(
  disks: Disks,
  rows: Rows,
  writer: Writer,
  permits: (act: Act) => boolean,
): Kind<ControllerView, ControllerStep> {
  return {
    name: "controller",
    permits,
    loops: CONTROLLER_LOOPS,
    intent: ({ row, members }) => {
      // What is done to a controller is done for its disks, and for those of its closure.
      const disks = members.flatMap((member) => member.disks);
      const open = disks.find((disk) => disk.row.observedGeneration !== disk.row.generation);
      return intentOf(open?.row ?? row);
    },
    changes: (act) => STEP_EFFECT[act] !== "observe",
    sends: (act) => STEP_SENDS[act],
    view: (id, moment) => {
      const row = rows.controller(id);
      return row === undefined ? undefined : disks.controllers.view(row, moment);
    },
    gaveUp: () => false,
    perform: (view, step) => disks.performController(view, step),
    record: (view) => {
      const patch = controllerRecord(view);
      return patch === undefined ? undefined : writer.recordController(view.row, patch);
    },
    part: () => undefined,
    recordedFailures: ({ row }) => row.failures,
    outlives: (view) => view.row.state === "ATTACHED" || isOtherDrive(view),
    wakeTime: ({ row }) => row.setback?.nextTryTime,
    recordFatal: ({ row, failures }, lastError) =>
      writer.recordController(row, { failures, lastError, nextTryTime: undefined }),
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
    sends: (act) => STEP_SENDS[act],
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
    part: () => undefined,
    recordedFailures: ({ row }) => row.failures,
    outlives: ({ row }) => row.state === "UP",
    wakeTime: ({ zeroingRests, now }) =>
      zeroingRests !== undefined && zeroingRests > now ? zeroingRests : undefined,
    recordFatal: ({ row, failures }, message) =>
      writer.recordDisk(row, {
        failures,
        lastError: message,
        nextTryTime: undefined,
        state: "FAILED",
        stateReason: message,
        observedGeneration: row.generation,
      }),
  };
}
