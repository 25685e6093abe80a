// Puts the loops to work: who observes, who plans, who is woken by what. This file is the wiring;
// loops.ts is the table of contents.
import type { Logger } from "pino";
import type { Config } from "../config.ts";
import type { DiskRow, DiskSeen } from "../model/disk.ts";
import type { LvolRow } from "../model/lvol.ts";
import type { SpdkClient } from "../spdk/client.ts";
import type { SpdkConnection } from "../spdk/connection.ts";
import type { Rows } from "../store/rows.ts";
import type { Writer } from "../store/writer.ts";
import type { Kernel } from "../sysfs/kernel.ts";
import { Disks } from "./disks.ts";
import { Driver, type Kind, type LoopStatus } from "./driver.ts";
import type { DiskView } from "./disk-view.ts";
import { diskRecord } from "./disk-record.ts";
import { Lanes } from "./lanes.ts";
import { DISK_LOOPS, VOLUME_LOOPS } from "./loops.ts";
import { volumeRecord } from "./record.ts";
import { Seen } from "./seen.ts";
import type { DiskStep, VolumeStep } from "./steps.ts";
import { TargetSession, type TargetStatus } from "./target-session.ts";
import { Verification } from "./verify.ts";
import { performVolumeStep, type VolumeStepContext } from "./volume-steps.ts";
import { volumeView, type VolumePlanView, type VolumeViewSource } from "./volume-view.ts";

export type ReconcilerOptions = {
  readonly config: Config;
  readonly rows: Rows;
  readonly writer: Writer;
  readonly kernel: Kernel;
  readonly connection: SpdkConnection;
  readonly spdk: SpdkClient;
  readonly log: Logger;
};

export type PartStatus = { readonly ok: boolean; readonly reason: string; readonly since: Date };

export type Reconciler = {
  readonly target: TargetStatus;
  readonly kernelStatus: PartStatus;
  /** Everything was looked at once since the target came up; stays true while it is away. */
  readonly verified: boolean;
  readonly volumeView: (row: LvolRow) => VolumePlanView;
  readonly diskSeen: (row: DiskRow) => DiskSeen;
  readonly loops: () => readonly LoopStatus[];
  /** Calls listener when something was seen, until the returned function is called. */
  readonly onChange: (listener: () => void) => () => void;
  readonly stop: (signal: AbortSignal) => Promise<void>;
};

export async function startReconciler(options: ReconcilerOptions): Promise<Reconciler> {
  const { config, rows, writer, spdk, log, connection } = options;
  const listeners = new Set<() => void>();
  const seen = new Seen(({ kind, id }) => {
    if (kind === "lvol") volumes.wake(id);
    else wakeDisk(id);
    for (const listener of listeners) listener();
  });
  const lanes = new Lanes();
  const source: VolumeViewSource = {
    rows,
    seen,
    fleet: config.fleet,
    listenAddresses: () => config.listenAddresses,
  };
  const viewNow = (row: LvolRow, inFlight = false) =>
    volumeView(source, row, { now: new Date(), inFlight });
  const disks = new Disks({
    ...options,
    seen,
    lanes,
    afterLoss: () => session.afterLoss(),
    wake: (id) => wakeDisk(id),
    onStoreReady: () => session.lookAtEverything(),
  });
  const volumes = new Driver(
    volumeKind(source, writer, {
      spdk,
      seen,
      lanes,
      afterLoss: () => session.afterLoss(),
      lostStore: (id) => seen.setDisk(id, undefined),
    }),
    log,
  );
  const diskDriver = new Driver(diskKind(disks, rows, writer), log);
  /** A disk that changes hands changes what its volumes can do. */
  const wakeDisk = (id: string) => {
    diskDriver.wake(id);
    for (const volume of rows.lvolIdsOn(id)) volumes.wake(volume);
  };
  const session = new TargetSession({
    connection,
    spdk,
    rows,
    seen,
    log,
    nodeId: config.nodeId,
    fleet: config.fleet,
    nqnPrefix: config.nqnPrefix,
    trtype: config.listenAddresses[0]?.trtype ?? "TCP",
    observeDisks: () => disks.observeTarget(),
    onReady: () => {
      volumes.retryAllNow();
      diskDriver.retryAllNow();
      for (const row of rows.lvols()) volumes.wake(row.id);
      for (const row of rows.disks()) diskDriver.wake(row.id);
    },
  });
  const unsubscribe = rows.subscribe((changes) => {
    for (const { kind, id, created } of changes) {
      if (kind === "disk") {
        wakeDisk(id);
        continue;
      }
      if (created && seen.run !== undefined) {
        // Never tried, so nothing of it can be there: the first attempt needs no look.
        seen.setLvol(id, { kind: "absent" });
        seen.setSubsystem(id, { kind: "absent" });
      }
      volumes.retryIfIntentChanged(id, rows.lvol(id)?.generation);
    }
  });
  const verification = new Verification({ rows, seen, disks, disksDriver: diskDriver });
  volumes.start();
  diskDriver.start();
  disks.start();
  return {
    get target() {
      return session.status;
    },
    get kernelStatus() {
      return disks.kernelStatus;
    },
    get verified() {
      return verification.done;
    },
    volumeView: (row) => viewNow(row),
    diskSeen: (row) => disks.diskSeen(row),
    loops: () => [...disks.loops(), ...diskDriver.status, ...volumes.status],
    onChange: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    stop: async (signal) => {
      unsubscribe();
      await disks.stop();
      await Promise.all([diskDriver.stop(signal), volumes.stop(signal)]);
      await session[Symbol.asyncDispose]();
    },
  };
}

function volumeKind(
  source: VolumeViewSource,
  writer: Writer,
  context: VolumeStepContext,
): Kind<VolumePlanView, VolumeStep> {
  return {
    name: "lvol",
    loops: VOLUME_LOOPS,
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

function diskKind(disks: Disks, rows: Rows, writer: Writer): Kind<DiskView, DiskStep> {
  return {
    name: "disk",
    loops: DISK_LOOPS,
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
